module github.com/oakra/oakra-go/outbox

go 1.25.0

require (
	github.com/oakra/oakra-go v0.1.0
	github.com/stretchr/testify v1.12.1
)
