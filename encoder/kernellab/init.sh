#!/bin/sh
# Process 1 of a lab guest. The kernel runs it from the initramfs. The shell is
# not busybox's, which prefers its own ip and tc to the full ones in /bin.
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox mkdir -p /applets
/bin/busybox --install -s /applets
export PATH=/bin:/applets
ln -sf /proc/self/fd /dev/fd
mount -t tmpfs run /run
echo "KERNELLAB userspace $(cut -d' ' -f1 /proc/uptime)"
up=
for m in /modules/*.ko; do
	insmod "$m" || echo "KERNELLAB cannot load $m"
	# The kernel takes most of a second from here to a carrier: start early.
	if [ -z "$up" ] && [ -e /sys/class/net/eth1 ]; then
		# Later changes to its multicast filter would take effect late (6.12).
		ip link set eth0 promisc on up
		ip link set eth1 up
		up=1
	fi
done
echo "KERNELLAB modules $(cut -d' ' -f1 /proc/uptime)"

# eth1 is the control channel's, eth0 the wire that tests look at. IPVS under
# test lives in a namespace called lab, which lab-reset makes anew.
ip addr add 10.87.0.2/24 dev eth1
# The daemon's socket gets the default size, which holds some 160 messages: an
# emulated processor needs more to keep up with a burst.
sysctl -qw net.core.rmem_max=16777216 net.core.rmem_default=16777216
sysctl -qw net.ipv6.conf.eth0.disable_ipv6=1
lab-reset || echo "KERNELLAB cannot make the lab's namespace"
httpd -p 10.87.0.2:80 -h /www || echo "KERNELLAB cannot start httpd"
n=0
for i in eth0 eth1; do
	until [ "$(cat /sys/class/net/$i/operstate)" = up ]; do
		n=$((n + 1))
		[ $n = 1000 ] && break
		usleep 10000
	done
done
echo "KERNELLAB ready $(cut -d' ' -f1 /proc/uptime)"
# Process 1 must not end. The shell reaps what it inherits.
while :; do sleep 3600; done
