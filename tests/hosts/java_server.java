// SPDX-License-Identifier: MIT
// usage: java java_server.java PORT CHAIN.pem KEY.pem (RSA, PKCS #8)
import java.io.IOException;
import java.net.InetAddress;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyFactory;
import java.security.KeyStore;
import java.security.PrivateKey;
import java.security.cert.Certificate;
import java.security.cert.CertificateFactory;
import java.security.spec.PKCS8EncodedKeySpec;
import java.util.Base64;
import javax.net.ssl.KeyManagerFactory;
import javax.net.ssl.SSLContext;

class JavaServer {
  static PrivateKey readKey(Path path) throws Exception {
    String text = Files.readString(path).replaceAll("-----.*-----", "");
    var encoded = new PKCS8EncodedKeySpec(Base64.getMimeDecoder().decode(text));
    return KeyFactory.getInstance("RSA").generatePrivate(encoded);
  }

  static Certificate[] readChain(Path path) throws Exception {
    try (var in = Files.newInputStream(path)) {
      var factory = CertificateFactory.getInstance("X.509");
      return factory.generateCertificates(in).toArray(Certificate[]::new);
    }
  }

  public static void main(String[] arguments) throws Exception {
    var none = new char[0];
    var keys = KeyStore.getInstance("PKCS12");
    keys.load(null, none);
    keys.setKeyEntry("it", readKey(Path.of(arguments[2])), none, readChain(Path.of(arguments[1])));
    var managers = KeyManagerFactory.getInstance("PKIX");
    managers.init(keys, none);
    var context = SSLContext.getInstance("TLS");
    context.init(managers.getKeyManagers(), null, null);
    var here = InetAddress.getLoopbackAddress();
    var sockets = context.getServerSocketFactory();
    try (var listener = sockets.createServerSocket(Integer.parseInt(arguments[0]), 50, here)) {
      while (true) {
        try (var connection = listener.accept()) {
          connection.getInputStream().read(new byte[1000]);
          connection.getOutputStream().write("hello".getBytes());
        } catch (IOException hungUp) {
          // The next one, please.
        }
      }
    }
  }
}
