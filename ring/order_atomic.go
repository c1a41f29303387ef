//go:build race || purego || !(amd64 || arm64)

package ring

import "sync/atomic"

// storeRelease, where there is no assembly for it, and under the race detector,
// which must see the store: the sequentially consistent store of sync/atomic.
func storeRelease(p *uint64, v uint64) { atomic.StoreUint64(p, v) }

// storeReleaseAhead, where there is no hint to give.
func storeReleaseAhead(p *uint64, v uint64) { atomic.StoreUint64(p, v) }

// PublishIsFence says whether a load that a producer makes after Publish, or
// Commit, is ordered behind it: the store is sequentially consistent here.
const PublishIsFence = true
