package xsk

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// What a sender may tell the device about a packet lies in front of it:
// struct xsk_tx_metadata of include/uapi/linux/if_xdp.h, native byte order.
//
//	flags 8 │ csum_start 2 │ csum_offset 2 │ 4 unused │ launch_time 8 │ packet
//
// In copy mode the kernel makes a packet with an unfinished checksum of it
// (xsk_build_skb), as its own UDP does; a device that cannot finish it has the
// kernel do so (validate_xmit_skb). In zero-copy mode it is up to the driver.

const txMetadataLen = 24

// putMetadata asks for the checksum of the UDP header at offset udp of the packet.
func putMetadata(b []byte, udp int) {
	_ = b[txMetadataLen-1]
	native.PutUint64(b, unix.XDP_TXMD_FLAGS_CHECKSUM)
	native.PutUint64(b[8:], 0)
	native.PutUint16(b[8:], uint16(udp))
	native.PutUint16(b[10:], udpChecksumOffset)
	native.PutUint64(b[16:], 0)
}

// udpChecksumOffset is where the checksum is in the UDP header.
const udpChecksumOffset = 6

// xskTxChecksum is NETDEV_XSK_FLAGS_TX_CHECKSUM of include/uapi/linux/netdev.h.
const xskTxChecksum = 1 << 1

// chooseChecksum says who computes the checksums, now that the socket is there.
func (t *XDPTx) chooseChecksum(facts deviceFacts) error {
	c := &t.cfg
	may := t.socket.TxMetadata()
	if t.socket.ZeroCopy() {
		may = may && facts.XSKFeatures&xskTxChecksum != 0
	} else if may {
		// For a driver with IFF_TX_SKB_NO_LINEAR, which is virtio_net, the kernel
		// ignores the metadata in copy mode, up to 6.12 at least
		// (xsk_build_skb_zerocopy), and sends the checksum unfinished.
		name, err := driver(t.info.Interface)
		if err != nil {
			return err
		}
		may = name != "" && name != "virtio_net"
	}
	switch {
	case c.Checksum == ChecksumAuto && may:
		c.Checksum = ChecksumOffload
	case c.Checksum == ChecksumAuto:
		c.Checksum = ChecksumFull
	case c.Checksum == ChecksumOffload && !t.socket.TxMetadata():
		return fmt.Errorf("%w: ChecksumOffload: the kernel has no TX metadata for AF_XDP, Linux 6.11 has", ErrUnsupported)
	case c.Checksum == ChecksumOffload && !may:
		return fmt.Errorf("%w: ChecksumOffload: with this driver the kernel or, in zero-copy mode, the driver does not finish checksums", ErrUnsupported)
	}
	t.info.Checksum = c.Checksum
	return nil
}

var checksumNames = [...]string{"auto", "full", "offload", "zero"}

func (c UDPChecksum) String() string {
	if c < 0 || int(c) >= len(checksumNames) {
		return fmt.Sprintf("UDPChecksum(%d)", int(c))
	}
	return checksumNames[c]
}
