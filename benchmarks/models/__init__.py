"""The networks beside each other, on segext's and on stock's layers: what they learn, and what they cost."""
