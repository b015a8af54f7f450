package main

import (
	"os"
	"strconv"
	"strings"
)

// peakMemory returns the largest resident memory of this process in bytes, or 0 where
// the system does not report it as Linux does.
func peakMemory() int64 {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	for field := range strings.Lines(string(status)) {
		if size, ok := strings.CutPrefix(field, "VmHWM:"); ok {
			kilobytes, _ := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(size), "kB")), 10, 64)
			return kilobytes << 10
		}
	}
	return 0
}
