#!/bin/sh
# Process 1 of a lab guest. The kernel runs it from the initramfs. The shell is
# not busybox's, which prefers its own ip and tc to the full ones in /bin.
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox mkdir -p /applets
/bin/busybox --install -s /applets
export PATH=/bin:/applets
echo "KERNELLAB userspace $(cut -d' ' -f1 /proc/uptime)"
for m in /modules/*.ko; do
	insmod "$m" || echo "KERNELLAB cannot load $m"
done
echo "KERNELLAB modules $(cut -d' ' -f1 /proc/uptime)"

for p in all default; do
	echo 0 >/proc/sys/net/ipv6/conf/$p/accept_dad
	echo 0 >/proc/sys/net/ipv6/conf/$p/dad_transmits
	echo 0 >/proc/sys/net/ipv6/conf/$p/router_solicitations
	echo 0 >/proc/sys/net/ipv4/conf/$p/rp_filter
done
echo 1 >/proc/sys/net/ipv4/ip_forward
echo 1 >/proc/sys/net/ipv6/conf/all/forwarding
ip link set lo up
ip link set eth0 up
ip addr add 10.88.0.2/24 dev eth0
ip addr add fd00:88::2/64 dev eth0 nodad
# The master or backup daemon needs routes for its groups at once.
ip route add 224.0.0.0/4 dev eth0
ip route add default via 10.88.0.1
ip route add default via fd00:88::1

# The control channel.
httpd -p 8099 -h /www || echo "KERNELLAB cannot start httpd"
echo "KERNELLAB ready $(cut -d' ' -f1 /proc/uptime)"
# Reap children for ever; process 1 must not end.
while :; do sleep 3600; done
