package kernellab

import (
	"os"
	"testing"
	"time"
)

func TestHold(t *testing.T) {
	if os.Getenv("HOLD") == "" {
		t.Skip()
	}
	g := Boot(t, Kernel(os.Getenv("HOLD")))
	t.Log(g.Console())
	time.Sleep(40 * time.Minute)
}
