package main

import (
	"io"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
)

// Without an app key it runs on the fake server, meets each next step and does what a
// shop would: of its five orders three are applied, each once.
func TestDemo(t *testing.T) {
	r, w, err := os.Pipe()
	require.NoError(t, err)
	stdout := os.Stdout
	os.Stdout = w
	t.Cleanup(func() { os.Stdout = stdout })
	printed := make(chan string)
	go func() {
		text, _ := io.ReadAll(r)
		printed <- string(text)
	}()

	require.NoError(t, run(t.Context(), "", nil))
	require.NoError(t, w.Close())
	text := <-printed
	for _, part := range []string{
		"this is a fake server", "In stock:\n  shirt-blue-m    135", "done: [shirt-blue-m now 133 shirt-green-m now 141]",
		"not applied, sending it again: oakra: stock.change", "rejected, the order needs a correction: ", "Object does not exist.",
		"the shop's setup needs a correction: ", "is the base URL right?", "put aside for a person: ", "  shirt-blue-m    129\n  shirt-green-m   139\n",
	} {
		require.Contains(t, text, part)
	}
}

func TestUsage(t *testing.T) {
	require.ErrorContains(t, run(t.Context(), "some-key", nil), "usage: quickstart SKU")
	require.ErrorContains(t, run(t.Context(), "a key", []string{"shirt-blue-m"}), "the app key")
}
