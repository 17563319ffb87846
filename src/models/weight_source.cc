#include "models/weight_source.h"

#include <utility>

#include "models/checkpoint.h"
#include "models/verify.h"

namespace wideep::models {
namespace {

class CheckpointWeights : public WeightSource {
 public:
  CheckpointWeights(Checkpoint checkpoint, ReadProgress progress)
      : WeightSource(std::move(progress)), checkpoint_(std::move(checkpoint)) {}

  Result<int64_t> num_bytes(const MatrixRequest& request) const override {
    return checkpoint_.num_bytes(request);
  }
  Result<int64_t> num_bytes(const VectorRequest& request) const override {
    return checkpoint_.num_bytes(request);
  }
  bool is_bf16(const MatrixRequest& request) const override { return checkpoint_.is_bf16(request); }
  bool has_fp8_blocks(const MatrixRequest& request) const override {
    const Fp8Block block = checkpoint_.fp8_block();
    return block.rows == kFp8Block && block.columns == kFp8Block && checkpoint_.has_blocks(request);
  }

 private:
  Status do_read(const MatrixRequest& request, std::span<float> out) const override {
    return checkpoint_.read(request, out);
  }
  Status do_read(const MatrixRequest& request, std::span<uint16_t> out) const override {
    return checkpoint_.read(request, out);
  }
  Status do_read_fp8(const MatrixRequest& request, std::span<std::byte> values,
                     std::span<float> scales) const override {
    return checkpoint_.read_blocks(request, values, scales);
  }
  Status do_read_vector(const VectorRequest& request, std::span<float> out) const override {
    return checkpoint_.read_vector(request, out);
  }

  const Checkpoint checkpoint_;
};

}  // namespace

template <typename Request>
Status WeightSource::count(const Request& request) {
  ASSIGN_OR_RETURN(const int64_t bytes, num_bytes(request));
  bytes_read_ += bytes;
  if (progress_) progress_(bytes);
  return Status::ok();
}

Status WeightSource::read(const MatrixRequest& request, std::span<float> out) {
  RETURN_IF_ERROR(do_read(request, out));
  return count(request);
}

Status WeightSource::read(const MatrixRequest& request, std::span<uint16_t> out) {
  RETURN_IF_ERROR(do_read(request, out));
  return count(request);
}

Status WeightSource::read_fp8(const MatrixRequest& request, std::span<std::byte> values,
                              std::span<float> scales) {
  RETURN_IF_ERROR(do_read_fp8(request, values, scales));
  return count(request);
}

Status WeightSource::do_read_fp8(const MatrixRequest& request, std::span<std::byte>,
                                 std::span<float>) const {
  return Status::invalid_input(request.name + ": has no F8_E4M3 blocks");
}

Status WeightSource::read_vector(const VectorRequest& request, std::span<float> out) {
  RETURN_IF_ERROR(do_read_vector(request, out));
  return count(request);
}

Result<std::unique_ptr<WeightSource>> open_checkpoint_weights(const std::string& folder,
                                                              const ModelConfig& model,
                                                              ReadProgress progress) {
  ASSIGN_OR_RETURN(Checkpoint checkpoint,
                   Checkpoint::open(folder, model.fp8_block.value_or(Fp8Block())));
  RETURN_IF_ERROR(verify(checkpoint, model));
  return std::unique_ptr<WeightSource>(
      std::make_unique<CheckpointWeights>(std::move(checkpoint), std::move(progress)));
}

Result<std::unique_ptr<WeightSource>> open_weights(LoadFormat format, const std::string& folder,
                                                   const ModelConfig& model,
                                                   ReadProgress progress) {
  if (format == LoadFormat::kDummy) return make_dummy_weights(model, std::move(progress));
  return open_checkpoint_weights(folder, model, std::move(progress));
}

}  // namespace wideep::models
