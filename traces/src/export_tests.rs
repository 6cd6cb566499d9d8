use std::time::SystemTime;

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

use super::*;
use crate::Place;

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

struct Collector(mpsc::UnboundedSender<ExportTraceServiceRequest>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.0.send(request.into_inner()).map_err(|_| Status::unavailable("nobody looks"))?;
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

async fn listen() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let endpoint = format!("http://{}", listener.local_addr().expect("its address"));
    (listener, endpoint)
}

fn span(parent: &str) -> Span {
    let parent = Place::parse(parent).expect("valid");
    let start = SystemTime::UNIX_EPOCH + Duration::from_secs(10);
    Span::new("work", parent.below("work"), parent, start, start + Duration::from_secs(2)).with("answer", 42)
}

#[tokio::test]
async fn spans_arrive_as_they_were_told() {
    let (listener, endpoint) = listen().await;
    let (sender, mut requests) = mpsc::unbounded_channel();
    let server = tonic::transport::Server::builder().add_service(TraceServiceServer::new(Collector(sender)));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    let traces = Traces::start("program", &endpoint);
    traces.record(span(&PARENT.replace("-01", "-00")));
    traces.record(span(PARENT));
    traces.flush().await;
    let request = requests.try_recv().expect("it was flushed");
    let [told] = &request.resource_spans[..] else { panic!("{request:?}") };
    let resource = told.resource.as_ref().expect("a resource");
    let service = resource.attributes.iter().find(|attribute| attribute.key == "service.name");
    assert!(format!("{service:?}").contains("program"), "{service:?}");
    let [span] = &told.scope_spans[0].spans[..] else { panic!("only what is sampled: {told:?}") };
    assert_eq!((span.name.as_str(), span.attributes[0].key.as_str()), ("work", "answer"));
    assert_eq!((span.start_time_unix_nano, span.end_time_unix_nano), (10_000_000_000, 12_000_000_000));
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    assert_eq!(hex(&span.trace_id), PARENT[3..35]);
    assert_eq!(hex(&span.parent_span_id), PARENT[36..52]);
    assert!(requests.try_recv().is_err(), "each span once");
}

/// The clock of this test goes on by itself whenever everybody waits.
#[tokio::test(start_paused = true)]
async fn a_collector_that_hangs_holds_nobody() {
    let (_listener, endpoint) = listen().await;
    let traces = Traces::start("program", &endpoint);
    for _ in 0..QUEUE + 10 {
        traces.record(span(PARENT));
    }
    let dropped = traces.to.as_ref().map(|queue| queue.dropped.load(Ordering::Relaxed));
    assert_eq!(dropped, Some(10), "what finds no room is dropped");
    let start = Instant::now();
    traces.flush().await;
    assert!(start.elapsed() <= FLUSH + Duration::from_millis(10), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_collector_that_is_not_there_is_not_waited_for() {
    let (listener, endpoint) = listen().await;
    drop(listener);
    let traces = Traces::start("program", &endpoint);
    traces.record(span(PARENT));
    let flushed = timeout(FLUSH * 30, traces.flush()).await;
    assert!(flushed.is_ok());
    assert!(traces.is_on(), "it may come");
}

#[tokio::test]
async fn an_address_that_cannot_be_used_is_no_address() {
    for endpoint in ["nonsense", "https://collector:4317", "http://", "localhost:4317"] {
        let traces = Traces::start("program", endpoint);
        assert!(!traces.is_on(), "{endpoint}");
        traces.record(span(PARENT));
        traces.flush().await;
    }
}
