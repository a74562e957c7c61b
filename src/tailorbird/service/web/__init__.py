"""Parts that every web server of the package shares: limits, middleware, connections, pages."""
