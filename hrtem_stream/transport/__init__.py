"""Frame log, wire format, sockets and the delivery guarantee. Alone knows ZeroMQ."""
