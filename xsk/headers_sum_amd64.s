//go:build !purego

#include "textflag.h"

// func sumBlocks(p *byte, blocks int) uint64
//
// The sum of 32-bit words, over blocks of 64 bytes, at least one. For each lane
// of 64 bits, W is the sum of the whole words, which wraps, and H that of their
// upper halves, which does not; the sum of the lower halves is W - H<<32. That
// takes three instructions for 32 bytes instead of four. A lane holds the halves
// of 2^32 words before it overflows; callers pass at most 2^20 blocks.
TEXT ·sumBlocks(SB), NOSPLIT, $0-24
	MOVQ p+0(FP), SI
	MOVQ blocks+8(FP), CX
	VPXOR Y0, Y0, Y0 // W
	VPXOR Y1, Y1, Y1 // H
	VPXOR Y2, Y2, Y2 // W of the other half of a block
	VPXOR Y3, Y3, Y3 // H of the other half

loop:
	VMOVDQU (SI), Y4
	VMOVDQU 32(SI), Y5
	VPADDQ Y4, Y0, Y0
	VPADDQ Y5, Y2, Y2
	VPSRLQ $32, Y4, Y4
	VPSRLQ $32, Y5, Y5
	VPADDQ Y4, Y1, Y1
	VPADDQ Y5, Y3, Y3
	ADDQ $64, SI
	DECQ CX
	JNZ  loop

	VPADDQ Y2, Y0, Y0
	VPADDQ Y3, Y1, Y1
	VPSLLQ $32, Y1, Y2
	VPSUBQ Y2, Y0, Y0
	VPADDQ Y1, Y0, Y0
	VEXTRACTI128 $1, Y0, X1
	VPADDQ X1, X0, X0
	VPSRLDQ $8, X0, X1
	VPADDQ X1, X0, X0
	MOVQ X0, AX
	VZEROUPPER
	MOVQ AX, ret+16(FP)
	RET
