"""How the servers of engines are started, waited for, asked, read and stopped."""
