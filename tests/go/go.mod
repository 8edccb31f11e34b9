module garden-go

go 1.24
