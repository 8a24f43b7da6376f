# Keeps a node of the bundled Valkey Cluster a part of it. Runs beside the node, in its image: a new
# version of the server must restart no node.
#
#   sh meet.sh HOST:PORT@BUS REPLICAS NODE...
#
# HOST:PORT@BUS is where this node is now, REPLICAS how many a master has at most, and each NODE a
# host:port by the name that DNS knows; OJS_REDIS_PASSWORD is theirs.
#
# A pod's address changes when it is started again. One that returns tells its new address to those
# whose address it remembers; when all return at once nobody remembers anything that holds. So this
# node is introduced to everybody who does not reach it. Who knows it already is not asked again.
#
# A node that returns without its directory is a new one to the cluster, without a part in it. Once
# the cluster is formed it becomes a replica of the master that has the fewest. Nobody but this
# script, beside the node itself, decides that, by what nodes say of themselves, and a node waits for
# those before it in the list: two would take the same master. While no master lacks a replica (the
# one that does is not elected yet) it waits as well. What the node was before is forgotten.

set -u
# The first process of a container is ended by no signal that it does not handle.
trap 'exit 0' TERM INT
if [ -n "${OJS_REDIS_PASSWORD:-}" ]; then
  export REDISCLI_AUTH="$OJS_REDIS_PASSWORD"
fi

self=${1%@*}
bus=${1#*@}
replicas=$2
shift 2

# Sends a command to a node. Fails when it does not answer, or refuses.
ask() (
  at=$1
  shift
  exec timeout 5 valkey-cli -e -h "${at%:*}" -p "${at##*:}" "$@" 2>&1
)

# Prints what every node that answers sees, each table of CLUSTER NODES below its NODE line.
look() {
  for node; do
    seen=$(ask "$node" cluster nodes) && printf 'NODE %s\n%s\n' "$node" "$seen"
  done
}

# Reads that, and prints what is to be done.
decide() {
  awk -v id="$1" -v most="$replicas" -v all="$2" '
    $1 == "NODE" { name[++answered] = $2; assigned = 0; next }
    {
      for (i = 9; i <= NF; i++)
        if ($i ~ /^[0-9]/ && split($i, ends, "-"))
          assigned += (2 in ends ? ends[2] : ends[1]) - ends[1] + 1
      if (assigned == 16384) formed = 1
    }
    $1 == id && $8 == "connected" { reached[answered] = 1 }
    $3 ~ /(^|,)fail(,|$)/ { gone[$1] = 1 }
    NF > 8 { owns[$1] = 1 }
    $3 ~ /myself/ {
      there[$1] = 1
      if ($3 ~ /slave/) has[$4]++
      else if (NF > 8) leads[$1] = 1
      else if (idle == "") idle = $1
    }
    END {
      for (i = 1; i <= answered; i++) if (!reached[i]) print "meet", name[i]
      if (formed && idle == id) {
        for (each in leads)
          if (has[each] + 0 < most && (best == "" || has[each] + 0 < has[best] + 0 \
              || (has[each] + 0 == has[best] + 0 && each < best)))
            best = each
        if (best != "") print "replicate", best
      }
      # Who does not answer may be the one that is not heard of. And slots that are lost stay in the
      # name of their last master: forgotten with it, they would be free to be given to another.
      if (answered == all)
        for (each in gone) if (!(each in there) && !(each in owns)) print "forget", each
    }'
}

echo "this node is at $self, its bus at port $bus"

# Looks once and does what is to be done; says what it has done.
tend() {
  id=$(ask "$self" cluster myid) || return 0
  look "$@" | decide "$id" $# | while read -r verb object; do
    case $verb in
      meet) answer=$(ask "$object" cluster meet "${self%:*}" "${self##*:}" "$bus") ;;
      *) answer=$(ask "$self" cluster "$verb" "$object") ;;
    esac
    echo "$verb $object: $answer"
  done
}

# In the background, because a shell hears signals while it waits, but not while a command runs.
while :; do
  { tend "$@"; sleep 5; } &
  wait $!
done
