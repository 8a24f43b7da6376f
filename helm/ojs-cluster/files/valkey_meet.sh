# Keeps a node of the bundled Valkey Cluster a part of it. Runs beside the node, in its image: a new
# version of the server must restart no node.
#
#   sh meet.sh HOST:PORT@BUS NODES
#
# HOST:PORT@BUS is where this node is now. NODES is a file that is read at every look, because it
# changes when the cluster grows: `replicas N`, how many a master has at most, and `node HOST:PORT` for
# every pod, by the name that DNS knows. OJS_REDIS_PASSWORD is theirs.
#
# A pod's address changes when it is started again. One that returns tells its new address to those
# whose address it remembers; when all return at once nobody remembers anything that holds. So this
# node is introduced to everybody who does not reach it. Who knows it already is not asked again.
#
# A node that returns without its directory is a new one to the cluster, without a part in it. Once
# the cluster is formed it becomes a replica of a master that lacks one. Nobody but this script, beside
# the node itself, decides that, by what nodes say of themselves, and a node waits for those before it
# in the list: two would take the same master. What the node was before is forgotten.
#
# While all is well, replicas move to masters on other hosts, and mastership from a host that has two
# to one that has none. When a master is gone for good, with its pod, its replica takes over. What is
# decided, and when, is in meet.awk and docs/adr/036-takeover-from-lost-masters.md.

set -u
if [ -n "${OJS_REDIS_PASSWORD:-}" ]; then
  export REDISCLI_AUTH="$OJS_REDIS_PASSWORD"
fi

self=${1%@*}
bus=${1#*@}
list=$2
scripts=$(dirname "$0")
# So many looks in a row ask for a change before it is made.
patience=6

# Sends a command to a node, or those that it reads. Fails when the node does not answer, or refuses.
ask() (
  at=$1
  shift
  exec timeout 5 valkey-cli -e -h "${at%:*}" -p "${at##*:}" "$@" 2>&1
)

# Prints what every node that answers by its own name says, each below its NODE line.
look() {
  for node; do
    seen=$(printf '%s\n' 'cluster nodes' 'config get cluster-announce-human-nodename' \
      'config get cluster-node-timeout' 'cluster info' 'info replication' | ask "$node")
    case $seen in *' myself,'*) ;; *) continue ;; esac
    # DNS may be late, and the address be that of another pod by now: of this release, or of another
    # one, with whose cluster this one would be joined. A node says which pod it is.
    address=${seen%% myself,*}
    address=${address##*@}
    case $address in
      *,*) if [ "${address#*,}" != "${node%:*}" ]; then continue; fi ;;
    esac
    printf 'NODE %s\n%s\n' "$node" "$seen"
  done
}

# Does one thing and says what came of it.
act() {
  case $1 in
    meet) answer=$(ask "$2" cluster meet "${self%:*}" "${self##*:}" "$bus") ;;
    failover) answer=$(ask "$self" cluster failover) ;;
    force | takeover) answer=$(ask "$self" cluster failover "$1") ;;
    *) answer=$(ask "$self" cluster "$1" "$2") ;;
  esac
  echo "$1 $2: $answer"
}

wish=
looks=0

# Looks once and does what is to be done.
tend() {
  id=$(ask "$self" cluster myid </dev/null) || {
    wish=
    return 0
  }
  most=$(sed -n 's/^replicas //p' "$list")
  set -- $(sed -n 's/^node //p' "$list")
  todo=$(look "$@" | awk -v id="$id" -v all=$# -v most="$most" -v patience="$patience" \
    -f "$scripts/meet.awk")
  printf '%s\n' "$todo" | while read -r verb object; do
    case $verb in '' | steady) ;; *) act "$verb" "$object" ;; esac
  done
  last=$wish
  wish=$(printf '%s\n' "$todo" | sed -n 's/^steady //p')
  if [ -z "$wish" ]; then return 0; fi
  if [ "$wish" = "$last" ]; then looks=$((looks + 1)); else looks=1; fi
  set -- $wish
  if [ "$looks" -ge "$1" ]; then
    act "$2" "$3"
    wish=
  fi
}

echo "this node is at $self, its bus at port $bus"

# The first process of a container is ended by no signal that it does not handle. And a shell hears
# signals while it waits, but not while a command runs: so the work is in the background.
loop=
trap 'if [ -n "$loop" ]; then kill "$loop"; fi; exit 0' TERM INT
while :; do
  tend
  sleep 5
done &
loop=$!
wait "$loop"
