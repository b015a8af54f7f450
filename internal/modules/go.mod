module github.com/oakra/oakra-go/internal/modules

go 1.25.0

require (
	github.com/oakra/oakra-go v0.1.0
	golang.org/x/mod v0.40.0
)

require (
	github.com/google/go-querystring v1.2.0 // indirect
	github.com/hashicorp/go-cleanhttp v0.5.2 // indirect
	github.com/hashicorp/go-retryablehttp v0.7.8 // indirect
)
