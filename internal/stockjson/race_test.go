//go:build race

package stockjson

func init() { raceEnabled = true }
