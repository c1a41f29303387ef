//go:build !amd64 || purego

package xsk

// sum64 adds b to a partial sum.
func sum64(b []byte, sum uint64) uint64 { return sumGeneric(b, sum) }
