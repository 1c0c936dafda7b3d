// Standard input to a port with TLS, and back, by the OpenSSL in this Node.js.
var tls = require('tls');
var options = {
  host: '127.0.0.1', port: Number(process.argv[2]), rejectUnauthorized: false,
  ciphers: process.argv[3], secureProtocol: process.argv[4]
};
if (tls.DEFAULT_MIN_VERSION) options.minVersion = 'TLSv1';
var connection = tls.connect(options, function () {
  process.stdin.pipe(connection);
  connection.pipe(process.stdout);
});
connection.on('end', function () { process.exit(0); });
connection.on('error', function (error) {
  console.error(error.message);
  process.exit(1);
});
