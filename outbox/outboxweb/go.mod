module github.com/oakra/oakra-go/outbox/outboxweb

go 1.25.0

require github.com/oakra/oakra-go/outbox v0.1.0

require (
	github.com/google/go-querystring v1.2.0 // indirect
	github.com/hashicorp/go-cleanhttp v0.5.2 // indirect
	github.com/hashicorp/go-retryablehttp v0.7.8 // indirect
	github.com/oakra/oakra-go v0.1.0 // indirect
)
