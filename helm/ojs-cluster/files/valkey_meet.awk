# Decides the next actions of its node. Reads the report of every node that answers (valkey_meet.sh, `look`),
# and prints one action per line.
#
#   awk -v id=ID -v all=NODES -v most=REPLICAS -v patience=LOOKS -f meet.awk
#
# The scripts of all nodes read the same and compute the same plan. Each acts only for its own node, and only
# when its node is the first of the plan. An action with `steady N` is taken when N checks in a row ask for it;
# the shell counts.
#
#   missing                         a pod does not answer, or does not reach this node: the next check is soon
#   meet ADDRESS                    that node does not reach this one
#   forget ID                       that node has failed, owns nothing, and no pod has its id
#   replicate ID                    this node is empty: it becomes a replica of that master
#   steady N replicate ID           this replica moves to a master that needs one on this host
#   steady 2 failover ID            this replica takes over from a master whose host has two
#   steady N force ID               this replica takes over from a lost master, elected by the others
#   steady N takeover ID            the same without an election, because no majority is left to vote
#
# A node announces its host as `cluster-announce-human-nodename` and its pod as `cluster-announce-hostname`.

function is_failed(flags) { return flags ~ /(^|,)(fail\??|noaddr|handshake)(,|$)/ }
function host_of(node) { return host[node] == "" ? node : host[node] }

{ sub(/\r$/, "") }

$1 == "NODE" {
  repeated = $2 in asked
  asked[$2] = 1
  if (!repeated) { name[++answered] = $2; place[answered] = $3; assigned = 0; setting = "" }
  next
}
repeated { next }

setting != "" { config[answered, setting] = $1; setting = ""; next }
$1 == "cluster-announce-human-nodename" || $1 == "cluster-node-timeout" { setting = $1; next }

/^[a-z_]+:/ { split($0, pair, ":"); said[answered, pair[1]] = pair[2]; next }

# A row of CLUSTER NODES.
length($1) == 40 && NF >= 8 {
  known[$1] = 1
  if (split($2, address, ",") > 1) pod[$1] = address[2]
  if ($1 == id && $8 == "connected") reached[answered] = 1
  if ($3 ~ /(^|,)fail(,|$)/) gone[$1] = 1
  if ($8 == "connected" && !is_failed($3)) alive[$1] = 1
  else apart[$1] = 1
  if ($3 ~ /myself/) {
    own[answered] = $1
    at[$1] = answered
    master[$1] = $3 ~ /slave/ ? $4 : ""
  }
  for (i = 9; i <= NF; i++) {
    if ($i !~ /^[0-9]/) { moving = 1; continue }
    ends = split($i, range, "-")
    owns[$1] = owns_here[answered, $1] = 1
    table[++ranges] = answered; owner[ranges] = $1
    first[ranges] = range[1] + 0; last[ranges] = range[ends] + 0
    assigned += last[ranges] - first[ranges] + 1
  }
  if (assigned == 16384) formed = 1
}

END {
  for (i = 1; i <= answered; i++) {
    node = own[i]
    host[node] = config[i, "cluster-announce-human-nodename"]
    if (master[node] != "") continue
    if (owns_here[i, node]) leads[++masters] = node
    else idle[++idles] = node
  }
  for (i = 1; i <= answered; i++)
    if (master[own[i]] in at && owns_here[at[master[own[i]]], master[own[i]]])
      replicas[++followers] = own[i]

  for (i = 1; i <= answered; i++) reaching += reached[i]
  if (reaching < all) print "missing"
  for (i = 1; i <= answered; i++) if (!reached[i]) print "meet", place[i]
  if (formed) plan_replicas()
  # A node that does not answer may be the one that is missing here. Lost slots stay with their last master:
  # if it were forgotten, they could be assigned to another node.
  if (answered == all)
    for (each in gone) if (!(each in at) && !(each in owns)) print "forget", each
  if (can_change()) correct()
  else if (answered == all && formed) take_over()
}

# Whether the cluster can afford a change: every node that owns slots answers, all that answer reach each other,
# and replicas are in sync. Sets `whole` if no node is silent.
function can_change(    i, each) {
  if (!formed || moving) return 0
  whole = answered == all
  for (each in known) {
    if (each in at ? each in apart : each in owns) return 0
    if (!(each in at)) whole = 0
  }
  for (i = 1; i <= answered; i++) {
    if (said[i, "cluster_state"] != "ok") return 0
    if (master[own[i]] != "" && said[i, "master_link_status"] != "up") return 0
  }
  return 1
}

# -- replicas -------------------------------------------------------------------------------------

# Assigns every replica and every empty node to a master on another host, at most `most` to each, with as
# few moves as possible. A replica without a better master stays; an empty node takes any master that lacks
# a replica.
function plan_replicas(    i, node) {
  for (i = 1; i <= followers; i++) {
    node = replicas[i]
    if (host_of(node) != host_of(master[node]) && used[master[node]] + 0 < most) assign(node, master[node])
  }
  for (i = 1; i <= followers; i++) if (!(replicas[i] in goal)) find_place(replicas[i])
  for (i = 1; i <= idles; i++) find_place(idle[i])
  for (i = 1; i <= followers; i++)
    if (!(replicas[i] in goal) && used[master[replicas[i]]] + 0 < most)
      assign(replicas[i], master[replicas[i]])
  for (i = 1; i <= followers; i++) if (!(replicas[i] in goal)) find_any_place(replicas[i])
  for (i = 1; i <= idles; i++) if (!(idle[i] in goal)) find_any_place(idle[i])
  # One at a time: two nodes would choose the same master.
  for (i = 1; i <= idles; i++)
    if (idle[i] in goal) {
      if (idle[i] == id) print "replicate", goal[id]
      return
    }
}

function assign(node, to) { goal[node] = to; used[to]++ }

# The master with the fewest replicas, on another host. If all are full, one whose replica can move
# elsewhere.
function find_place(node) { split("", tried); return search(node) }
function search(node,    i, j, to, best, other) {
  for (i = 1; i <= masters; i++) {
    to = leads[i]
    if (host_of(to) != host_of(node) && used[to] + 0 < most && (best == "" || used[to] + 0 < used[best] + 0))
      best = to
  }
  if (best != "") { assign(node, best); return 1 }
  for (i = 1; i <= masters; i++) {
    to = leads[i]
    if (host_of(to) == host_of(node) || to in tried) continue
    tried[to] = 1
    for (j = 1; j <= followers + idles; j++) {
      other = j <= followers ? replicas[j] : idle[j - followers]
      if (other in goal && goal[other] == to && search(other)) { used[to]--; assign(node, to); return 1 }
    }
  }
  return 0
}

function find_any_place(node,    i, best) {
  for (i = 1; i <= masters; i++)
    if (used[leads[i]] + 0 < most && (best == "" || used[leads[i]] + 0 < used[best] + 0)) best = leads[i]
  if (best != "") assign(node, best)
}

# -- a cluster that serves ----------------------------------------------------------------------------

# One change at a time, the same in every node's script: the first replica with another planned master
# moves. When all replicas are placed, a master leaves a host with two masters. While nodes are silent, as after an
# election, replicas stay, but masters leave soon: if a host with two masters is lost too, no majority may be left.
function correct(    i, node) {
  for (i = 1; whole && i <= followers; i++) {
    node = replicas[i]
    if (node in goal && goal[node] != master[node]) {
      if (node == id) print "steady", patience, "replicate", goal[node]
      return
    }
  }
  node = next_failover()
  if (node == id) print "steady", 2, "failover", master[id]
}

# The replica that takes over next, so that the fullest host has one master less, or "". The path may lead
# over several hosts; its last step comes first, which makes the path shorter. So this terminates: with
# every step the hosts become more even or the path shorter.
function next_failover(    i, j, here, there, head, tail, queue, seen, fullest, count) {
  for (i = 1; i <= answered; i++) if (host[own[i]] == "") return ""
  for (i = 1; i <= masters; i++) count[host[leads[i]]]++
  fullest = host[leads[1]]
  for (i = 1; i <= masters; i++) if (count[host[leads[i]]] > count[fullest]) fullest = host[leads[i]]
  if (count[fullest] < 2) return ""
  head = tail = 1
  queue[1] = fullest
  seen[fullest] = 1
  for (; head <= tail; head++) {
    here = queue[head]
    for (i = 1; i <= masters; i++) {
      if (host[leads[i]] != here) continue
      for (j = 1; j <= followers; j++) {
        there = host[replicas[j]]
        if (master[replicas[j]] != leads[i] || there in seen) continue
        if (count[there] + 2 <= count[fullest]) return replicas[j]
        seen[there] = 1
        queue[++tail] = there
      }
    }
  }
  return ""
}

# -- lost masters -----------------------------------------------------------------------------------

# Every node answers. A master is lost with its memory if its own pod is another node now and no node
# reaches it. Its most recent replica takes over; one master at a time.
function take_over(    i, lost, heir, seen, voters, size, each, need) {
  for (i = 1; i <= answered; i++) {
    lost = master[own[i]]
    if (lost == "" || lost in at || lost in seen) continue
    seen[lost] = 1
    if (!is_gone_for_good(lost)) continue
    heir = heir_of(lost)
    if (heir == "") continue
    if (heir != id) return
    for (each in owns) if (owns_here[at[id], each]) { size++; if (each in at) voters++ }
    # Long enough for a master that is cut off to notice that it has no majority, and to stop.
    need = int((2 * config[at[id], "cluster-node-timeout"] + 4999) / 5000)
    print "steady", (need > patience ? need : patience), (2 * voters > size ? "force" : "takeover"), lost
    return
  }
}

function is_gone_for_good(lost,    i, j) {
  if (lost in alive || !(lost in pod)) return 0
  if (!(pod[lost] in asked)) return 0
  for (i = 1; i <= ranges; i++) {
    if (owner[i] != lost) continue
    for (j = 1; j <= ranges; j++)
      if (owner[j] != lost && first[j] <= last[i] && first[i] <= last[j]) return 0
  }
  return lost in owns
}

# The replica that has received most. A replica that was never in sync reports 0 or 1 and has no data. While
# a replica still hears of the master, none takes over.
function heir_of(lost,    i, offset, most_recent, best) {
  most_recent = 1
  for (i = 1; i <= answered; i++) {
    if (master[own[i]] != lost) continue
    if (said[i, "master_link_status"] != "down" || said[i, "master_sync_in_progress"] + 0 != 0) return ""
    offset = said[i, "slave_repl_offset"] + 0
    if (offset > most_recent) { most_recent = offset; best = own[i] }
  }
  return best
}
