"""What others are told over HTTP: signed after Standard Webhooks, to addresses that are theirs, again when it fails."""
