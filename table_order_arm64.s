//go:build !race && !purego

#include "textflag.h"

// func publishWords(dst, src *uint64, n int)
TEXT ·publishWords(SB), NOSPLIT, $0-24
	MOVD dst+0(FP), R0
	MOVD src+8(FP), R1
	MOVD n+16(FP), R2
	MOVD (R0), R3
	ORR  $1, R3
	MOVD R3, (R0)
	DMB  $0xa // ISHST: the mark before what it marks
	MOVD $1, R4
loop:
	MOVD (R1)(R4<<3), R3
	MOVD R3, (R0)(R4<<3)
	ADD  $1, R4
	CMP  R2, R4
	BLT  loop
	MOVD (R1), R3
	STLR R3, (R0)
	RET

// func storeWord(p *uint64, v uint64)
TEXT ·storeWord(SB), NOSPLIT, $0-16
	MOVD p+0(FP), R0
	MOVD v+8(FP), R1
	STLR R1, (R0)
	RET

// func prefetchLines(lines *uintptr, n int)
TEXT ·prefetchLines(SB), NOSPLIT, $0-16
	MOVD lines+0(FP), R0
	MOVD n+8(FP), R1
	MOVD $0, R2
	B    test
loop:
	MOVD (R0)(R2<<3), R3
	PRFM (R3), PLDL1KEEP
	ADD  $1, R2
test:
	CMP  R1, R2
	BLT  loop
	RET
