#!/bin/sh
# Replaces the namespace called lab by a fresh one. A namespace has its own
# IPVS: connections, services, daemons and sysctls. Unloading ip_vs instead is
# slower and fails while a template holds a persistence engine.
exec 2>&1
set -e
if [ -e /run/netns/lab ]; then
	# The interface first, which is synchronous, so that its address is free;
	# the rest of the namespace goes in the background.
	ip -n lab link del eth0
	ip netns del lab
fi
ip netns add lab
ip link add link eth0 name lab0 netns lab address 52:54:00:88:00:02 type macvlan mode bridge
nsenter --net=/run/netns/lab /bin/sh -e <<'IN'
cd /proc/sys/net
for p in all default; do
	echo 0 >ipv6/conf/$p/accept_dad
	echo 0 >ipv6/conf/$p/dad_transmits
	echo 0 >ipv6/conf/$p/router_solicitations
	echo 0 >ipv4/conf/$p/rp_filter
done
echo 1 >ipv4/ip_forward
echo 1 >ipv6/conf/all/forwarding
ip -batch - <<'BATCH'
link set lo up
link set lab0 name eth0
link set eth0 up
addr add 10.88.0.2/24 dev eth0
addr add fd00:88::2/64 dev eth0 nodad
route add 224.0.0.0/4 dev eth0
route add default via 10.88.0.1
route add ::/0 via fd00:88::1
BATCH
IN
