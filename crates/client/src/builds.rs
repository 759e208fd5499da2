use crate::{METRICS_DEADLINE, Transport, answer, member, with_deadline};
use async_trait::async_trait;
use futures_util::StreamExt;
use hoistway_kit::grpc::{MAX_MESSAGE, status};
use hoistway_model::{
    BuildService, Operation, OperationId, Result,
    build::{Build, BuildEvents, BuildQuery, BuildRequest, BuiltImage, Collected, RebuildRequest},
    image::StoredImage,
    log::{LogPieces, LogQuery},
    metric::Metrics,
};
use hoistway_proto::builds::v1::{self as pb, build_service_client::BuildServiceClient};
use std::time::Duration;

/// The build service behind a transport.
#[derive(Debug, Clone)]
pub struct BuildClient {
    rpc: BuildServiceClient<Transport>,
    patience: Duration,
}

impl BuildClient {
    /// Creates a client over `transport`, which connects on first use. `patience` is the deadline of one build.
    pub fn new(transport: Transport, patience: Duration) -> Self {
        let rpc = BuildServiceClient::new(transport)
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        Self { rpc, patience }
    }

    fn rpc(&self) -> BuildServiceClient<Transport> {
        self.rpc.clone()
    }
}

#[async_trait]
impl BuildService for BuildClient {
    async fn build(&self, operation: Operation, request: BuildRequest) -> Result<BuiltImage> {
        let request = with_deadline(pb::BuildRequest::from((operation, request)), self.patience);
        member("image", answer(self.rpc().build(request).await)?.image)?.try_into()
    }

    async fn rebuild(&self, operation: Operation, request: RebuildRequest) -> Result<BuiltImage> {
        let request = with_deadline(pb::RebuildImageRequest::from((operation, request)), self.patience);
        member("image", answer(self.rpc().rebuild_image(request).await)?.image)?.try_into()
    }

    async fn undo_build(&self, built: OperationId) -> Result<()> {
        let request = pb::UndoBuildRequest { built_operation_id: built.to_string() };
        answer(self.rpc().undo_build(request).await).map(drop)
    }

    async fn get_build(&self, id: String) -> Result<Build> {
        member("build", answer(self.rpc().get_build(pb::GetBuildRequest { id }).await)?.build)?.try_into()
    }

    async fn list_builds(&self, query: BuildQuery) -> Result<Vec<Build>> {
        let response = answer(self.rpc().list_builds(pb::ListBuildsRequest::from(query)).await)?;
        response.builds.into_iter().map(TryInto::try_into).collect()
    }

    async fn build_logs(&self, id: String, query: LogQuery) -> Result<LogPieces> {
        let request = pb::StreamBuildLogsRequest { id, query: Some(query.into()) };
        let stream = answer(self.rpc().stream_build_logs(request).await)?;
        Ok(Box::pin(stream.map(|item| member("piece", item.map_err(status::from_status)?.piece)?.try_into())))
    }

    async fn build_events(&self) -> Result<BuildEvents> {
        let stream = answer(self.rpc().watch_builds(pb::WatchBuildsRequest {}).await)?;
        Ok(Box::pin(stream.map(|item| member("build", item.map_err(status::from_status)?.build)?.try_into())))
    }

    async fn build_metrics(&self) -> Result<Metrics> {
        let request = with_deadline(pb::GetBuildMetricsRequest {}, METRICS_DEADLINE);
        member("metrics", answer(self.rpc().get_build_metrics(request).await)?.metrics)?.try_into()
    }

    async fn keep_images(&self, images: Vec<StoredImage>) -> Result<()> {
        let request = pb::KeepImagesRequest { images: images.into_iter().map(Into::into).collect() };
        answer(self.rpc().keep_images(request).await).map(drop)
    }

    async fn collect_images(&self, in_use: Vec<StoredImage>) -> Result<Collected> {
        let request = pb::CollectImagesRequest { in_use: in_use.into_iter().map(Into::into).collect() };
        Ok(answer(self.rpc().collect_images(with_deadline(request, self.patience)).await)?.into())
    }
}
