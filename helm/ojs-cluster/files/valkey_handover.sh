# Gives the slots of this node to a replica before the node ends, so that no request waits for an election.
# Kubernetes runs it before it ends the pod. It takes about six seconds at most, and none without a replica.
#
# While a master hands over, its clients wait until the replica has everything. Then they are redirected.

now=$(date +%s)
end=$((now + 6))
ask_at=$now
while [ "$now" -lt "$end" ]; do
  seen=$(timeout 2 valkey-cli info replication | tr -d '\r')
  case $seen in
    *role:master*slave0:*) ;;
    *) exit 0 ;; # a replica, a master without one, or a node that does not answer
  esac
  # The replica in sync that has most. One that does not take over in three seconds is asked again, or another one.
  set -- $(printf '%s\n' "$seen" |
    sed -n 's/^slave[0-9]*:ip=\(.*\),port=\([0-9]*\),state=online,offset=\([0-9]*\).*/\3 \1 \2/p' | sort -rn)
  if [ "$now" -ge "$ask_at" ] && [ $# -gt 0 ]; then
    timeout 2 valkey-cli -e -h "$2" -p "$3" cluster failover && ask_at=$((now + 3))
  fi
  sleep 0.2
  now=$(date +%s)
done
echo "this node is still a master: an election will replace it" >&2
