//! The gRPC face of the build service: messages in, the trait called, messages out.

use async_trait::async_trait;
use futures_util::{Stream, StreamExt};
use hoistway_kit::{
    grpc::{MAX_MESSAGE, Server, to_status},
    log_collect,
    token::ServiceToken,
};
use hoistway_model::{
    BuildService, Operation, OperationId, Result,
    build::{Build, BuildRequest, RebuildRequest},
    image::StoredImage,
    log::{LogPiece, LogQuery},
};
use hoistway_proto::{
    DESCRIPTORS,
    builds::v1::{
        self as pb,
        build_service_server::{BuildService as Rpc, BuildServiceServer},
    },
    common::v1 as common,
    convert::parsed,
};
use std::{pin::Pin, sync::Arc};
use tonic::{Request, Response, Status};

/// The server of a build service.
pub fn server(service: Arc<dyn BuildService>, token: ServiceToken) -> Result<Server> {
    let rpc = BuildServiceServer::new(BuildGrpc(service))
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE);
    Server::new(token).add(rpc).reflection(DESCRIPTORS)
}

/// The answers of a call that has many.
type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

struct BuildGrpc(Arc<dyn BuildService>);

#[async_trait]
impl Rpc for BuildGrpc {
    async fn build(&self, request: Request<pb::BuildRequest>) -> Result<Response<pb::BuildResponse>, Status> {
        let (operation, request): (Operation, BuildRequest) = request.into_inner().try_into().map_err(to_status)?;
        let image = self.0.build(operation, request).await.map_err(to_status)?;
        Ok(Response::new(pb::BuildResponse { image: Some(image.into()) }))
    }

    async fn rebuild_image(
        &self,
        request: Request<pb::RebuildImageRequest>,
    ) -> Result<Response<pb::BuildResponse>, Status> {
        let (operation, request): (Operation, RebuildRequest) = request.into_inner().try_into().map_err(to_status)?;
        let image = self.0.rebuild(operation, request).await.map_err(to_status)?;
        Ok(Response::new(pb::BuildResponse { image: Some(image.into()) }))
    }

    async fn undo_build(
        &self,
        request: Request<pb::UndoBuildRequest>,
    ) -> Result<Response<pb::UndoBuildResponse>, Status> {
        let id = request.into_inner().built_operation_id;
        let id = parsed::<OperationId>("built_operation_id", &id).map_err(to_status)?;
        self.0.undo_build(id).await.map_err(to_status)?;
        Ok(Response::new(pb::UndoBuildResponse {}))
    }

    async fn get_build(&self, request: Request<pb::GetBuildRequest>) -> Result<Response<pb::GetBuildResponse>, Status> {
        let build = self.0.get_build(request.into_inner().id).await.map_err(to_status)?;
        Ok(Response::new(pb::GetBuildResponse { build: Some(build.into()) }))
    }

    async fn list_builds(
        &self,
        request: Request<pb::ListBuildsRequest>,
    ) -> Result<Response<pb::ListBuildsResponse>, Status> {
        let query = request.into_inner().try_into().map_err(to_status)?;
        let builds = self.0.list_builds(query).await.map_err(to_status)?;
        Ok(Response::new(pb::ListBuildsResponse { builds: builds.into_iter().map(Into::into).collect() }))
    }

    async fn get_build_logs(
        &self,
        request: Request<pb::GetBuildLogsRequest>,
    ) -> Result<Response<pb::GetBuildLogsResponse>, Status> {
        let pb::GetBuildLogsRequest { id, tail } = request.into_inner();
        let query = LogQuery { tail, ..LogQuery::default() };
        let pieces = self.0.build_logs(id, query).await.map_err(to_status)?;
        Ok(Response::new(pb::GetBuildLogsResponse { lines: log_collect::texts(pieces).await.map_err(to_status)? }))
    }

    type StreamBuildLogsStream = Answers<pb::StreamBuildLogsResponse>;

    async fn stream_build_logs(
        &self,
        request: Request<pb::StreamBuildLogsRequest>,
    ) -> Result<Response<Self::StreamBuildLogsStream>, Status> {
        let pb::StreamBuildLogsRequest { id, query } = request.into_inner();
        let query = query.unwrap_or_default().try_into().map_err(to_status)?;
        let pieces = self.0.build_logs(id, query).await.map_err(to_status)?;
        let answer = |piece: LogPiece| pb::StreamBuildLogsResponse { piece: Some(piece.into()) };
        Ok(Response::new(Box::pin(pieces.map(move |piece| piece.map(answer).map_err(to_status)))))
    }

    type WatchBuildsStream = Answers<pb::WatchBuildsResponse>;

    async fn watch_builds(
        &self,
        _: Request<pb::WatchBuildsRequest>,
    ) -> Result<Response<Self::WatchBuildsStream>, Status> {
        let builds = self.0.build_events().await.map_err(to_status)?;
        let answer = |build: Build| pb::WatchBuildsResponse { build: Some(build.into()) };
        Ok(Response::new(Box::pin(builds.map(move |build| build.map(answer).map_err(to_status)))))
    }

    async fn get_build_metrics(
        &self,
        _: Request<pb::GetBuildMetricsRequest>,
    ) -> Result<Response<pb::GetBuildMetricsResponse>, Status> {
        let metrics = self.0.build_metrics().await.map_err(to_status)?;
        Ok(Response::new(pb::GetBuildMetricsResponse { metrics: Some(metrics.into()) }))
    }

    async fn keep_images(
        &self,
        request: Request<pb::KeepImagesRequest>,
    ) -> Result<Response<pb::KeepImagesResponse>, Status> {
        let images = stored_images(request.into_inner().images).map_err(to_status)?;
        self.0.keep_images(images).await.map_err(to_status)?;
        Ok(Response::new(pb::KeepImagesResponse {}))
    }

    async fn collect_images(
        &self,
        request: Request<pb::CollectImagesRequest>,
    ) -> Result<Response<pb::CollectImagesResponse>, Status> {
        let in_use = stored_images(request.into_inner().in_use).map_err(to_status)?;
        Ok(Response::new(self.0.collect_images(in_use).await.map_err(to_status)?.into()))
    }
}

fn stored_images(images: Vec<common::StoredImage>) -> Result<Vec<StoredImage>> {
    images.into_iter().map(TryInto::try_into).collect()
}
