//! Every mode over real sockets.

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::timeout,
};

use super::*;

/// How long something that must happen may take.
const LIMIT: Duration = Duration::from_secs(20);
/// How long is waited to see that something does not happen: it would in a millisecond.
const NEVER: Duration = Duration::from_millis(200);

/// A server that answers every byte with itself and tells what it got.
async fn echo() -> (SocketAddr, mpsc::UnboundedReceiver<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (tell, told) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let tell = tell.clone();
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                while let Ok(length @ 1..) = stream.read(&mut buffer).await {
                    let _ = tell.send(buffer[..length].to_vec());
                    if stream.write_all(&buffer[..length]).await.is_err() {
                        break;
                    }
                }
            });
        }
    });
    (address, told)
}

async fn setup() -> (Proxy, TcpStream, mpsc::UnboundedReceiver<Vec<u8>>) {
    let (address, told) = echo().await;
    let proxy = Proxy::start(Some(address)).await.unwrap();
    let client = TcpStream::connect(proxy.address()).await.unwrap();
    (proxy, client, told)
}

async fn got(client: &mut TcpStream, bytes: &[u8]) {
    let mut buffer = vec![0; bytes.len()];
    timeout(LIMIT, client.read_exact(&mut buffer)).await.expect("no answer").unwrap();
    assert_eq!(buffer, bytes);
}

async fn silent(client: &mut TcpStream) {
    assert!(timeout(NEVER, client.read_u8()).await.is_err(), "something came");
}

/// The connection ends with a reset, not in order.
async fn reset(client: &mut TcpStream) {
    let error = timeout(LIMIT, async {
        loop {
            match client.read_u8().await {
                Ok(_) => {}
                Err(error) => return error,
            }
        }
    });
    assert_eq!(error.await.expect("still open").kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn what_is_sent_arrives_and_an_end_in_order_is_one() {
    let (proxy, mut client, mut told) = setup().await;
    client.write_all(b"hello").await.unwrap();
    got(&mut client, b"hello").await;
    assert_eq!(told.recv().await.unwrap(), b"hello");
    assert_eq!((proxy.carried(Way::Requests), proxy.carried(Way::Answers)), (5, 5));
    client.shutdown().await.unwrap();
    assert_eq!(timeout(LIMIT, client.read(&mut [0; 8])).await.unwrap().unwrap(), 0);
}

#[tokio::test]
async fn held_requests_do_not_arrive_until_they_are_let_go() {
    let (proxy, mut client, mut told) = setup().await;
    proxy.hold_requests(true);
    client.write_all(b"one").await.unwrap();
    silent(&mut client).await;
    assert!(told.try_recv().is_err(), "the server got it");
    proxy.hold_requests(false);
    got(&mut client, b"one").await;
}

#[tokio::test]
async fn held_answers_were_asked_for_and_come_later() {
    let (proxy, mut client, mut told) = setup().await;
    proxy.hold_answers(true);
    client.write_all(b"one").await.unwrap();
    assert_eq!(timeout(LIMIT, told.recv()).await.unwrap().unwrap(), b"one");
    silent(&mut client).await;
    proxy.hold_answers(false);
    got(&mut client, b"one").await;
}

#[tokio::test]
async fn a_connection_made_while_all_is_held_is_half_open() {
    let (proxy, _, _told) = setup().await;
    proxy.hold_requests(true);
    let mut client = TcpStream::connect(proxy.address()).await.unwrap();
    client.write_all(b"two").await.unwrap();
    silent(&mut client).await;
    proxy.pass();
    got(&mut client, b"two").await;
}

#[tokio::test]
async fn a_cut_resets_what_there_is_and_lets_new_ones_through() {
    let (proxy, mut client, _told) = setup().await;
    client.write_all(b"x").await.unwrap();
    got(&mut client, b"x").await;
    proxy.cut();
    reset(&mut client).await;
    let mut other = TcpStream::connect(proxy.address()).await.unwrap();
    other.write_all(b"y").await.unwrap();
    got(&mut other, b"y").await;
}

#[tokio::test]
async fn whoever_is_refused_is_reset_until_it_is_over() {
    let (proxy, mut client, _told) = setup().await;
    client.write_all(b"x").await.unwrap();
    got(&mut client, b"x").await;
    proxy.refuse(true);
    reset(&mut client).await;
    reset(&mut TcpStream::connect(proxy.address()).await.unwrap()).await;
    proxy.refuse(false);
    let mut other = TcpStream::connect(proxy.address()).await.unwrap();
    other.write_all(b"y").await.unwrap();
    got(&mut other, b"y").await;
}

#[tokio::test]
async fn a_server_that_is_not_there_is_a_reset_and_can_come_later() {
    let proxy = Proxy::start(None).await.unwrap();
    reset(&mut TcpStream::connect(proxy.address()).await.unwrap()).await;
    let (address, _told) = echo().await;
    proxy.aim(address);
    let mut client = TcpStream::connect(proxy.address()).await.unwrap();
    client.write_all(b"y").await.unwrap();
    got(&mut client, b"y").await;
}

#[tokio::test]
async fn a_delay_keeps_the_order_and_waits_at_least_so_long() {
    let (proxy, mut client, _told) = setup().await;
    let delay = Duration::from_millis(60);
    proxy.delay(Way::Requests, delay, Duration::ZERO);
    let begin = std::time::Instant::now();
    for number in 0..4_u8 {
        client.write_all(&[number]).await.unwrap();
    }
    got(&mut client, &[0, 1, 2, 3]).await;
    assert!(begin.elapsed() >= delay, "no delay: {:?}", begin.elapsed());
    proxy.delay(Way::Requests, Duration::ZERO, Duration::ZERO);
    client.write_all(b"z").await.unwrap();
    got(&mut client, b"z").await;
}

#[tokio::test]
async fn a_request_that_is_waited_for_arrives_and_its_answer_does_not() {
    let (proxy, mut client, mut told) = setup().await;
    proxy.at(b"COMMIT", Then::CutAfter);
    client.write_all(b"BEGIN").await.unwrap();
    got(&mut client, b"BEGIN").await;
    assert_eq!(told.recv().await.unwrap(), b"BEGIN");
    client.write_all(b"QCOMMIT;").await.unwrap();
    assert_eq!(timeout(LIMIT, told.recv()).await.unwrap().unwrap(), b"QCOMMIT;");
    let mut buffer = [0; 8];
    let answer = timeout(LIMIT, client.read(&mut buffer)).await.unwrap();
    assert_eq!(answer.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset, "an answer came");
    assert_eq!(proxy.caught(), 1);
    let mut other = TcpStream::connect(proxy.address()).await.unwrap();
    other.write_all(b"COMMIT").await.unwrap();
    got(&mut other, b"COMMIT").await;
    assert_eq!(proxy.caught(), 1, "only once");
}

#[tokio::test]
async fn answers_are_held_from_the_request_that_is_waited_for() {
    let (proxy, mut client, mut told) = setup().await;
    proxy.at(b"COMMIT", Then::HoldAnswers);
    client.write_all(b"COMMIT").await.unwrap();
    assert_eq!(timeout(LIMIT, told.recv()).await.unwrap().unwrap(), b"COMMIT");
    silent(&mut client).await;
    proxy.hold_answers(false);
    got(&mut client, b"COMMIT").await;
}

#[tokio::test]
async fn a_pattern_in_two_pieces_is_found() {
    let (proxy, mut client, mut told) = setup().await;
    proxy.at(b"COMMIT", Then::CutAfter);
    client.write_all(b"..COM").await.unwrap();
    assert_eq!(timeout(LIMIT, told.recv()).await.unwrap().unwrap(), b"..COM");
    client.write_all(b"MIT..").await.unwrap();
    reset(&mut client).await;
    assert_eq!(proxy.caught(), 1);
}

#[tokio::test]
async fn a_request_that_is_cut_before_never_arrives() {
    let (proxy, mut client, mut told) = setup().await;
    proxy.at(b"COMMIT", Then::CutBefore);
    client.write_all(b"COMMIT").await.unwrap();
    reset(&mut client).await;
    assert!(timeout(NEVER, told.recv()).await.is_err(), "the server got it");
}

#[tokio::test]
async fn a_connection_is_cut_after_the_byte_that_was_named() {
    let (proxy, mut client, mut told) = setup().await;
    proxy.cut_after(Way::Requests, 7);
    client.write_all(b"0123").await.unwrap();
    got(&mut client, b"0123").await;
    assert_eq!(told.recv().await.unwrap(), b"0123");
    client.write_all(b"456789").await.unwrap();
    assert_eq!(timeout(LIMIT, told.recv()).await.unwrap().unwrap(), b"456", "seven bytes and no more");
    reset(&mut client).await;
}

#[tokio::test]
async fn passing_ends_everything_that_was_set() {
    let (proxy, mut client, _told) = setup().await;
    proxy.hold_requests(true);
    proxy.hold_answers(true);
    proxy.delay(Way::Answers, Duration::from_secs(3_600), Duration::ZERO);
    proxy.at(b"x", Then::CutBefore);
    proxy.pass();
    client.write_all(b"x").await.unwrap();
    got(&mut client, b"x").await;
    assert!(!proxy.disarm(), "nothing waits any more");
}
