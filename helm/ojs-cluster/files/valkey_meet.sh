# Keeps a node of the bundled Valkey Cluster a member of it. It runs beside the node, in Valkey's image, so that
# a new version of the server restarts no node.
#
#   sh meet.sh HOST:PORT@BUS NODES
#
# HOST:PORT@BUS is the current address of this node. NODES is a file that every check reads again, because it
# changes when the cluster grows: `replicas N`, the most replicas of a master, and `node HOST:PORT` for every
# pod, by its DNS name. OJS_REDIS_PASSWORD is the password of the nodes.
#
# The address of a pod changes when it restarts. A restarted node tells its new address to the nodes whose
# addresses it remembers. If all nodes restart at the same time, no remembered address is valid. So this script
# introduces its node to every node that does not reach it.
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
scripts=$(dirname "$0")
# A change is made after this many checks in a row have asked for it.
patience=6

# Sends a command to a node, or commands from standard input. Fails when the node does not answer or
# refuses.
ask() (
  at=$1
  shift
  exec timeout 5 valkey-cli -e -h "${at%:*}" -p "${at##*:}" "$@" 2>&1
)

# Prints the report of a node that answers by its own name, below a NODE line.
look_at() {
  seen=$(printf '%s\n' 'cluster nodes' 'config get cluster-announce-human-nodename' \
    'config get cluster-node-timeout' 'cluster info' 'info replication' | ask "$1")
  case $seen in *' myself,'*) ;; *) return 0 ;; esac
  # DNS may be late, and the address may belong to another pod now, even of another release, whose cluster
  # would be joined with this one. So each node tells which pod it is.
  address=${seen%% myself,*}
  address=${address##*@}
  case $address in
    *,*) if [ "${address#*,}" != "${1%:*}" ]; then return 0; fi ;;
  esac
  printf 'NODE %s\n%s\n' "$1" "$seen"
}

# Prints the reports of these nodes. They are asked at the same time: when all pods have restarted, most addresses
# that DNS knows lead nowhere. A pipe keeps each report until the later ones are complete.
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
    meet) answer=$(ask "$2" cluster meet "${self%:*}" "${self##*:}" "$bus") ;;
    failover) answer=$(ask "$self" cluster failover) ;;
    force | takeover) answer=$(ask "$self" cluster failover "$1") ;;
    *) answer=$(ask "$self" cluster "$1" "$2") ;;
  esac
  echo "$1 $2: $answer"
}

wish=
looks=0

# Checks once and takes the necessary actions.
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

# A container's first process ignores signals without a handler. A shell handles signals while it waits, but
# not while a command runs: so the work runs in the background.
loop=
trap 'if [ -n "$loop" ]; then kill "$loop"; fi; exit 0' TERM INT
while :; do
  tend
  sleep 5
done &
loop=$!
wait "$loop"
