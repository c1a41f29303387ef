# Makes the guest a balancer with one of each kind of service, in front of a
# namespace rs that plays the real server: 10.99.0.2 and fd00:99::2. Services
# live on the guest's own addresses; fwmark 7 is TCP port 82.
set -e
sysctl -qw net.ipv4.vs.sync_threshold="1 0" net.ipv4.vs.sync_version=$VERSION
[ -e /run/httpd.rs ] && kill $(cat /run/httpd.rs) || :
rm -f /run/httpd.rs
[ -e /run/netns/rs ] && ip netns del rs
ip netns add rs
ip link add rs0 type veth peer name rs1 netns rs
ip -batch - <<B
link set rs0 up
addr add 10.99.0.1/24 dev rs0
addr add fd00:99::1/64 dev rs0 nodad
B
nsenter --net=/run/netns/rs /bin/sh -e <<'IN'
echo 0 >/proc/sys/net/ipv6/conf/rs1/accept_dad
ip -batch - <<B
link set lo up
link set rs1 up
addr add 10.99.0.2/24 dev rs1
addr add fd00:99::2/64 dev rs1 nodad
route add default via 10.99.0.1
route add ::/0 via fd00:99::1
B
for p in 80 81 82 90; do
	httpd -f -p $p -h /www >/dev/null 2>&1 </dev/null &
	echo $! >>/run/httpd.rs
done
until [ "$(netstat -ltn | grep -c ':[89][012] ')" -ge 4 ]; do usleep 10000; done
IN
ipvsadm -R <<B
-A -t 10.88.0.2:80 -s rr
-a -t 10.88.0.2:80 -r 10.99.0.2:80 -m
-A -t [fd00:88::2]:80 -s rr
-a -t [fd00:88::2]:80 -r [fd00:99::2]:80 -m
-A -u 10.88.0.2:53 -s rr
-a -u 10.88.0.2:53 -r 10.99.0.2:53 -m
-A -t 10.88.0.2:81 -s rr -p 300
-a -t 10.88.0.2:81 -r 10.99.0.2:81 -m
-A -f 7 -s rr -p 100
-a -f 7 -r 10.99.0.2:82 -m
-A -u 10.88.0.2:5060 -s rr -p 60 --pe sip -o
-a -u 10.88.0.2:5060 -r 10.99.0.2:5060 -m
-A -t 10.88.0.2:90 -s rr
-a -t 10.88.0.2:90 -r 10.99.0.2:90 -m
B
tc qdisc add dev eth0 clsact
tc filter add dev eth0 ingress protocol ip u32 \
	match ip protocol 6 0xff match ip dport 82 0xffff action skbedit mark 7
