"""Who may call a server: tokens and their scopes, certificates, and the options that name them. No messages."""
