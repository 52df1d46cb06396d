package position

import (
	"testing"

	"odometer"
)

func TestEpochsOf(t *testing.T) {
	t.Parallel()
	epochs := Epochs{{Epoch: 1, FirstSeq: 1}, {Epoch: 2, FirstSeq: 50}, {Epoch: 3, FirstSeq: 20}, {Epoch: 4, FirstSeq: 30}}
	for seq, want := range map[int64]int32{1: 1, 19: 1, 20: 3, 29: 3, 30: 4, 60: 4} {
		if got := epochs.Of(seq); got != (odometer.Position{Epoch: want, Seq: seq}) {
			t.Errorf("message %d of the present stream is of epoch %d, want %d", seq, got.Epoch, want)
		}
	}
}
