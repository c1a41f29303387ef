package xsk

import (
	"reflect"
	"testing"
)

// TestPlusKnowsEveryCounter sums values in which every field is different.
func TestPlusKnowsEveryCounter(t *testing.T) {
	fill := func(stats any, factor uint64) {
		v := reflect.ValueOf(stats).Elem()
		for i := range v.NumField() {
			v.Field(i).SetUint(factor * uint64(i+1))
		}
	}
	var t1, t2, t3 TxStats
	fill(&t1, 1)
	fill(&t2, 100)
	fill(&t3, 101)
	if got := t1.Plus(t2); got != t3 {
		t.Errorf("got %+v, want %+v", got, t3)
	}
	var r1, r2, r3 RxStats
	fill(&r1, 1)
	fill(&r2, 100)
	fill(&r3, 101)
	if got := r1.Plus(r2); got != r3 {
		t.Errorf("got %+v, want %+v", got, r3)
	}
}
