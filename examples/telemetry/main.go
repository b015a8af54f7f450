// Command telemetry shows what a shop sees of its calls to Oakra through OpenTelemetry:
// the spans on the console, and the metrics as Prometheus reads them. The calls go to a
// fake server in its own process, which fails in some of them.
//
//	go run ./examples/telemetry                           # each failure once
//	go run ./examples/telemetry -listen 127.0.0.1:9464    # every second, for a Prometheus
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/oakra/oakra-go"
	"github.com/oakra/oakra-go/oakraotel"
	"github.com/oakra/oakra-go/oakratest"
)

func main() {
	listen := flag.String("listen", "", "serve the metrics at this `address`, and go on until interrupted")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Stdout, *listen)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "telemetry:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, w io.Writer, listen string) (err error) {
	registry := prometheus.NewRegistry()
	tracers, meters, err := providers(w, registry)
	if err != nil {
		return err
	}
	defer func() { // which sends what is left, also after an interrupt
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		err = errors.Join(err, tracers.Shutdown(ctx), meters.Shutdown(ctx))
	}()
	observer := oakra.WithObserver(oakraotel.NewObserver( //nolint:contextcheck // it outlives ctx
		oakraotel.WithTracerProvider(tracers),
		oakraotel.WithMeterProvider(meters),
	))

	server := oakratest.NewServer(oakra.StockRecord{ID: 123, LocationID: "warehouse-1", SKU: "shirt-green-m", Quantity: 150})
	defer server.Close()
	client := server.Client(observer)
	metrics := promhttp.HandlerFor(registry, promhttp.HandlerOpts{})
	if listen == "" {
		trade(ctx, w, client, server)
		fmt.Fprintln(w, "\nThe metrics, without the buckets of the histogram:")
		show(ctx, w, metrics)
		return nil
	}
	return serve(ctx, w, listen, metrics, func() { trade(ctx, w, client, server) })
}

// trade sells a shirt on a good day and on three bad ones.
func trade(ctx context.Context, w io.Writer, client *oakra.Client, server *oakratest.Server) {
	for _, day := range []struct {
		name  string
		fault oakratest.Fault
	}{
		{"all is well", oakratest.Fault{Kind: oakratest.Slow, Times: 1}},
		{"the connection is refused once", oakratest.Fault{Kind: oakratest.Refuse, Times: 1}},
		{"the app key is revoked", oakratest.Fault{Kind: oakratest.Respond, Times: 1,
			Status: http.StatusUnauthorized, Body: `{"detail":"Invalid token."}`}},
		{"the response is lost", oakratest.Fault{Kind: oakratest.ResetAfter, Times: 1}},
	} {
		fmt.Fprintf(w, "\nA sale, and %s:\n", day.name)
		server.Inject(day.fault)
		_, err := client.Stock.Change(ctx, []oakra.StockChange{{ID: 123, QuantityChange: -1}})
		fmt.Fprintf(w, "=> %v\n", oakra.NextStep(err))
	}
}

// serve serves the metrics until ctx ends, and calls job every second.
func serve(ctx context.Context, w io.Writer, addr string, metrics http.Handler, job func()) error {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "metrics at http://%s/metrics\n", listener.Addr())
	mux := http.NewServeMux()
	mux.Handle("/metrics", metrics)
	server := http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	defer server.Close()
	for tick := time.NewTicker(time.Second); ; {
		job()
		select {
		case <-ctx.Done():
			return nil
		case err := <-served:
			return err
		case <-tick.C:
		}
	}
}

// show prints the metrics of the client.
func show(ctx context.Context, w io.Writer, metrics http.Handler) {
	recorder := httptest.NewRecorder()
	metrics.ServeHTTP(recorder, httptest.NewRequestWithContext(ctx, http.MethodGet, "/metrics", nil))
	for line := range strings.Lines(recorder.Body.String()) {
		if strings.HasPrefix(line, "oakra_") && !strings.Contains(line, "_bucket{") {
			fmt.Fprint(w, line)
		}
	}
}
