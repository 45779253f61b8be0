"""What the controller serves over HTTP: REST, the login page, the dashboard, metrics."""
