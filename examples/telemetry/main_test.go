package main

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestRun(t *testing.T) {
	var out strings.Builder
	require.NoError(t, run(t.Context(), &out, ""))
	for _, want := range []string{
		"=> done", "=> alert", "=> ask",
		"oakra.attempt.kind=resend", "oakra.outcome=unknown error.type=connection_lost",
		`oakra_client_unknown_total{oakra_operation="stock.change"} 1`,
	} {
		require.Contains(t, out.String(), want)
	}
}

// TestAlarms looks for the metrics and labels of README's alarms in what Prometheus gets.
func TestAlarms(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	out, w := io.Pipe()
	done := make(chan error, 1)
	go func() {
		done <- run(ctx, w, "127.0.0.1:0")
		w.Close()
	}()
	lines := bufio.NewScanner(out)
	require.True(t, lines.Scan())
	url := strings.TrimPrefix(lines.Text(), "metrics at ")
	for lines.Scan() && lines.Text() != "=> ask" { // all calls were made
		continue
	}
	go io.Copy(io.Discard, out)
	response, err := http.Get(url)
	require.NoError(t, err)
	metrics, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	cancel()
	require.NoError(t, <-done)

	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	_, alarms, _ := strings.Cut(string(readme), "```yaml")
	alarms, _, _ = strings.Cut(alarms, "```")
	names := regexp.MustCompile(`oakra_\w+|error_type|\ble\b`).FindAllString(alarms, -1)
	require.NotEmpty(t, names)
	for _, name := range names {
		require.Regexp(t, `(?m)^`+name+`\{|[{,]`+name+`="`, string(metrics))
	}
}
