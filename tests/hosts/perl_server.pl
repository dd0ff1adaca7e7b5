# SPDX-License-Identifier: MIT
# usage: perl perl_server.pl PORT CHAIN.pem KEY.pem
#
# A process for each connection. SIGHUP has it load the certificate again.
use strict;
use warnings;
use IO::Socket::SSL;

my ($port, $chain, $key) = @ARGV;
$SIG{CHLD} = 'IGNORE';
my $server = IO::Socket::INET->new(
    LocalAddr => '127.0.0.1', LocalPort => $port, Listen => 10, ReuseAddr => 1)
    or die "cannot listen: $!\n";
my $context;

sub load_certificate {
    $context = IO::Socket::SSL::SSL_Context->new(
        SSL_server => 1, SSL_cert_file => $chain, SSL_key_file => $key)
        or die "cannot load the certificate: $SSL_ERROR\n";
}

load_certificate;
$SIG{HUP} = \&load_certificate;

while (1) {
    # A signal ends the waiting.
    my $client = $server->accept or next;
    my $child = fork;
    if ($child) {
        close $client;
        next;
    }
    IO::Socket::SSL->start_SSL($client, SSL_server => 1, SSL_reuse_ctx => $context) or exit;
    my $line = <$client>;
    print {$client} 'hello';
    close $client;
    exit;
}
