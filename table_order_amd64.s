//go:build !race && !purego

#include "textflag.h"

// func publishWords(dst, src *uint64, n int)
TEXT ·publishWords(SB), NOSPLIT, $0-24
	MOVQ dst+0(FP), DI
	MOVQ src+8(FP), SI
	MOVQ n+16(FP), CX
	MOVQ (DI), AX
	ORQ  $1, AX
	MOVQ AX, (DI)
	MOVQ $1, BX
loop:
	MOVQ (SI)(BX*8), AX
	MOVQ AX, (DI)(BX*8)
	INCQ BX
	CMPQ BX, CX
	JLT  loop
	MOVQ (SI), AX
	MOVQ AX, (DI)
	RET

// func storeWord(p *uint64, v uint64)
TEXT ·storeWord(SB), NOSPLIT, $0-16
	MOVQ p+0(FP), AX
	MOVQ v+8(FP), CX
	MOVQ CX, (AX)
	RET

// func prefetchLines(lines *uintptr, n int)
TEXT ·prefetchLines(SB), NOSPLIT, $0-16
	MOVQ lines+0(FP), SI
	MOVQ n+8(FP), CX
	XORQ BX, BX
	JMP  test
loop:
	MOVQ (SI)(BX*8), AX
	PREFETCHT0 (AX)
	INCQ BX
test:
	CMPQ BX, CX
	JLT  loop
	RET
