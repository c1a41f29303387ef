//go:build !race && !purego

#include "textflag.h"

// func storeRelease(p *uint64, v uint64)
TEXT ·storeRelease(SB), NOSPLIT, $0-16
	MOVQ p+0(FP), AX
	MOVQ v+8(FP), CX
	MOVQ CX, (AX)
	RET

// func storeReleaseAhead(p *uint64, v uint64)
TEXT ·storeReleaseAhead(SB), NOSPLIT, $0-16
	MOVQ p+0(FP), AX
	MOVQ v+8(FP), CX
	MOVQ CX, (AX)
	BYTE $0x0F; BYTE $0x0D; BYTE $0x88; LONG $128 // PREFETCHW 128(AX), which the assembler does not know
	RET
