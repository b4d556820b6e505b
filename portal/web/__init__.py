"""The pages: Flask, server-rendered, with HTMX parts. Thin: what is true and allowed is asked of `portal.services`."""
