"""vLLM: how it is started and asked, what it reads, what memory it takes."""
