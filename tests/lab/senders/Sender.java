import java.io.InputStream;
import java.io.OutputStream;
import java.security.cert.X509Certificate;
import javax.net.ssl.SSLContext;
import javax.net.ssl.SSLSocket;
import javax.net.ssl.TrustManager;
import javax.net.ssl.X509TrustManager;

/** Standard input to a port with TLS, and back, by Java's own TLS. */
public class Sender {
    private static final X509TrustManager ANYBODY = new X509TrustManager() {
        public void checkClientTrusted(X509Certificate[] chain, String type) {}
        public void checkServerTrusted(X509Certificate[] chain, String type) {}
        public X509Certificate[] getAcceptedIssuers() { return new X509Certificate[0]; }
    };

    public static void main(String[] arguments) throws Exception {
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(null, new TrustManager[] {ANYBODY}, null);
        int port = Integer.parseInt(arguments[0]);
        SSLSocket tls = (SSLSocket) context.getSocketFactory().createSocket("127.0.0.1", port);
        tls.startHandshake();
        OutputStream to = tls.getOutputStream();
        Thread input = new Thread(() -> copy(System.in, to));
        input.setDaemon(true);
        input.start();
        copy(tls.getInputStream(), System.out);
    }

    private static void copy(InputStream from, OutputStream to) {
        byte[] piece = new byte[4096];
        try {
            for (int size; (size = from.read(piece)) > 0; to.flush()) {
                to.write(piece, 0, size);
            }
        } catch (java.io.IOException error) {
            System.err.println(error);
        }
    }
}
