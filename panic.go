package oakra

import (
	"fmt"
	"runtime/debug"
)

// workerPanic is a panic of a goroutine of this package, for the caller's: that of a
// transport, a limiter, a key source or an observer.
type workerPanic struct {
	value any
	stack []byte
}

// Error returns the text of the panic and its stack.
func (p *workerPanic) Error() string { return fmt.Sprintf("%v\n\n%s", p.value, p.stack) }

// Unwrap returns the value of the panic, if it is an error.
func (p *workerPanic) Unwrap() error {
	err, _ := p.value.(error)
	return err
}

// catch runs f in a goroutine of this package, and returns its panic.
func catch(f func()) (p *workerPanic) {
	defer func() {
		if value := recover(); value != nil {
			p = &workerPanic{value, debug.Stack()}
		}
	}()
	f()
	return nil
}
