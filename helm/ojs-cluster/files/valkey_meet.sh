# Keeps a node of the bundled Valkey Cluster a member of it. It runs beside the node, in Valkey's image, so that
# a new version of the server restarts no node.
#
#   sh meet.sh HOST:PORT@BUS NODES SERVICE
#
# HOST:PORT@BUS is the current address of this node. NODES is a file that every check reads again, because it
# changes when the cluster grows: `replicas N`, the most replicas of a master, and `node HOST:PORT` for every
# pod, by its DNS name. SERVICE is the HOST:PORT that leads to any running pod. OJS_REDIS_PASSWORD is the password
# of the nodes.
#
# The address of a pod changes when it restarts. A restarted node tells its new address to the nodes whose
# addresses it remembers. If all nodes restart at the same time, no remembered address is valid. So this script
# introduces its node to every node that does not reach it.
#
# Nodes to which this node is connected are asked at the address that it uses. DNS answers with old addresses for
# up to 30 s. So while a node is missing, SERVICE is asked as well: its address never changes, and the pod that
# answers tells its own address.
#
# A node that restarts without its directory is new to the cluster and has no role. After the cluster is formed,
# it becomes a replica of a master that lacks one. Only this script decides that, by the nodes' own reports. It
# waits for the nodes before it in the list, because two nodes would choose the same master.
#
# In a healthy cluster, replicas move to masters on other hosts, and mastership moves from a host with two
# masters to one without. If a master is permanently lost with its pod, its replica takes over. The decisions are
# in meet.awk and docs/adr/036-takeover-from-lost-masters.md.

set -u
if [ -n "${OJS_REDIS_PASSWORD:-}" ]; then
  export REDISCLI_AUTH="$OJS_REDIS_PASSWORD"
fi

self=${1%@*}
bus=${1#*@}
list=$2
# It is read once: an upgrade replaces the mounted file while this process runs, and the new one may expect other
# reports.
decide=$(cat "$(dirname "$0")/meet.awk")
service=$3
# A change is made after this many checks in a row have asked for it. They are this many seconds apart; checks
# between them, while a node is missing, do not count.
patience=6
period=5

# Sends a command to a node, or commands from standard input. Fails when the node refuses, or does not answer
# within some seconds.
ask() (
  seconds=$1
  at=$2
  shift 2
  exec timeout "$seconds" valkey-cli -e -h "${at%:*}" -p "${at##*:}" "$@" 2>&1
)

# Prints NAME@ADDRESS of every pod, and @SERVICE three times if this node, whose CLUSTER NODES is the input, is not
# connected to all. Three, because it may lead to this node itself, or to a pod that is ending.
pods() {
  awk -v self="$self" -v service="$service" '
    # A process that hangs accepts connections. Its pod may have another node by now.
    FNR == NR && length($1) == 40 && $8 == "connected" && $3 !~ /(^|,)(fail\??|noaddr|handshake)(,|$)/ {
      split($2, part, ",")
      sub(/@.*/, "", part[1])
      at[part[2]] = $3 ~ /myself/ ? self : part[1]
    }
    FNR != NR && $1 == "node" {
      name = $2
      sub(/:[0-9]+$/, "", name)
      if (!(name in at)) missing = 1
      print name "@" (name in at ? at[name] : $2)
    }
    END { if (missing) for (i = 0; i < 3; i++) print "@" service }
  ' - "$list"
}

# Prints the report of the pod NAME at ADDRESS, or of any pod there if NAME is empty, below the line
# `NODE NAME ADDRESS`.
look_at() {
  name=${1%%@*}
  address=${1#*@}
  seen=$(printf '%s\n' 'cluster nodes' 'config get cluster-announce-human-nodename' \
    'config get cluster-node-timeout' 'cluster info' 'info replication' | ask 2 "$address")
  case $seen in *' myself,'*) ;; *) return 0 ;; esac
  # The address may belong to another pod now, even of another release, whose cluster would be joined with this
  # one. So each node tells which pod it is.
  told=${seen%% myself,*}
  told=${told##* }
  case $told in
    *,*)
      if [ -z "$name" ]; then
        name=${told#*,}
        address=${told%@*}
        if ! grep -q "^node $name:" "$list"; then return 0; fi
      fi
      if [ "${told#*,}" != "$name" ]; then return 0; fi
      ;;
    *) if [ -z "$name" ]; then return 0; fi ;;
  esac
  printf 'NODE %s %s\n%s\n' "$name" "$address" "$seen"
}

# Prints the reports of these pods, NAME@ADDRESS each. They are asked at the same time: when all pods have restarted,
# most addresses that DNS knows lead nowhere. A pipe keeps each report until the later ones are complete.
look() {
  if [ $# -eq 0 ]; then return 0; fi
  look_at "$1" | (
    shift
    others=$(look "$@")
    cat
    printf '%s\n' "$others"
  )
}

# Takes one action and prints its result.
act() {
  case $1 in
    meet) answer=$(ask 5 "$2" cluster meet "${self%:*}" "${self##*:}" "$bus") ;;
    failover) answer=$(ask 5 "$self" cluster failover) ;;
    force | takeover) answer=$(ask 5 "$self" cluster failover "$1") ;;
    *) answer=$(ask 5 "$self" cluster "$1" "$2") ;;
  esac
  echo "$1 $2: $answer"
}

wish=
looks=0

# Checks once and takes the necessary actions. Sets `pause`, the seconds until the next check.
tend() {
  last=$wish
  wish=
  pause=1
  own=$(ask 5 "$self" cluster nodes </dev/null) || return 0
  most=$(sed -n 's/^replicas //p' "$list")
  todo=$(look $(printf '%s\n' "$own" | pods) | awk -v id="$(printf '%s\n' "$own" | sed -n 's/ .* myself,.*//p')" \
    -v all="$(grep -c '^node ' "$list")" -v most="$most" -v patience="$patience" "$decide")
  printf '%s\n' "$todo" | while read -r verb object; do
    case $verb in '' | missing | steady) ;; *) act "$verb" "$object" ;; esac
  done
  case $todo in missing*) ;; *) pause=$period ;; esac
  wish=$(printf '%s\n' "$todo" | sed -n 's/^steady //p')
  if [ -z "$wish" ]; then return 0; fi
  now=$(date +%s)
  if [ "$wish" != "$last" ]; then
    looks=1
    counted=$now
  elif [ $((now - counted)) -ge "$period" ]; then
    looks=$((looks + 1))
    counted=$now
  fi
  set -- $wish
  if [ "$looks" -ge "$1" ]; then
    act "$2" "$3"
    wish=
  fi
}

echo "this node is at $self, its bus at port $bus"

# A container's first process ignores signals without a handler. A shell handles signals while it waits, but
# not while a command runs: so the work runs in the background.
trap 'set +u; if [ -n "$!" ]; then kill "$!"; fi; exit 0' TERM INT
while :; do
  tend
  sleep "$pause"
done &
wait "$!"
