"""What people see: tables on the terminal, progress, and one HTML page. Reads only what a finished run left behind."""
