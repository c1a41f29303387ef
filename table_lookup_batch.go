package ipvsync

import "runtime"

// LookupBatch does for each of keys what Lookup does, in a fraction of the time: it
// is for who takes packets in bursts. A Lookup waits for two cache lines of memory,
// one after the other; LookupBatch asks for those of up to 64 keys at once.
//
// entries[i] and found[i] become what Lookup(keys[i]) returns, so entries[i] is the
// zero Entry where nothing is found. It returns how many were found. entries and
// found must be at least as long as keys, or it panics; what is behind is left as it
// is.
//
// The entries are not of one moment: each is as it was at some moment of the call.
// Expires counts from the call, for 64 keys at a time. keys are only read, and
// nothing of them is kept; entries are the caller's, but for the bytes of Options. It
// takes no lock, and allocates only for keys with EngineData, which are looked up
// singly. Several may call it at once, each with slices of its own.
func (t *Table) LookupBatch(keys []Key, entries []Entry, found []bool) (n int) {
	entries, found = entries[:len(keys):len(entries)], found[:len(keys):len(found)] // or panic, whatever their capacity
	b := t.batches.Get().(*batch)
	for len(keys) > 0 {
		w := min(len(keys), tableWindow)
		n += t.lookupWindow(b, keys[:w], entries, found)
		keys, entries, found = keys[w:], entries[w:], found[w:]
	}
	t.batches.Put(b)
	runtime.KeepAlive(t) // as in Lookup
	return n
}

// lookupWindow goes the way of Apply: hashes and buckets, then entries, and then,
// when all of that is on its way, the lookups.
func (t *Table) lookupWindow(b *batch, keys []Key, entries []Entry, found []bool) (n int) {
	for i := range keys {
		k := &b.keys[i]
		b.kinds[i] = k.ask(&keys[i], &t.seed) // of no kind: some bucket is fetched, for nothing
		b.home(t, i)
	}
	prefetchLines(&b.lines[0], len(keys))
	t.prefetch(b, len(keys))
	since := t.since() // before any entry is loaded; see follow
	for i := range keys {
		k, e, ok := &b.keys[i], &entries[i], false
		switch want := b.kinds[i]; want {
		case 0:
		case kindEngine:
			ok = t.lookupEngine(&keys[i], k, e)
		default:
			ok = t.lookup(k, want, nil, since, e)
		}
		if found[i] = ok; ok {
			n++
		} else {
			*e = Entry{}
		}
	}
	return n
}
