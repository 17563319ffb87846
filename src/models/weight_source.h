// Where a model's weights come from: its checkpoint, or nowhere (--load_format dummy). A loader
// asks for the parts that its rank needs, from as many threads as it likes.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "base/status.h"
#include "config/engine_config.h"
#include "config/model_config.h"
#include "models/matrix_request.h"

namespace wideep::models {

// Called after each read, from the thread that read, with the checkpoint's bytes it covered
// (ProgressBar::add takes them).
using ReadProgress = std::function<void(int64_t bytes)>;

// The blocks that kernels take: DeepSeek-V3's.
inline constexpr int kFp8Block = 128;

class WeightSource {
 public:
  explicit WeightSource(ReadProgress progress) : progress_(std::move(progress)) {}
  WeightSource(const WeightSource&) = delete;
  virtual ~WeightSource() = default;

  // Fills out, [request.rows(), request.columns()] row-major; scales of FP8 are applied. Errors
  // name the tensor. Thread-safe.
  Status read(const MatrixRequest& request, std::span<float> out);
  // The same rounded to bf16 (bits).
  Status read(const MatrixRequest& request, std::span<uint16_t> out);
  Status read_vector(const VectorRequest& request, std::span<float> out);

  // Whether bf16 holds the part's values as they are.
  virtual bool is_bf16(const MatrixRequest&) const { return false; }
  // Whether the part is stored as F8_E4M3 with a scale for each kFp8Block x kFp8Block block, and
  // begins with a block.
  virtual bool has_fp8_blocks(const MatrixRequest&) const { return false; }
  // What is stored, where has_fp8_blocks(): values [rows, columns], scales [blocks of rows, blocks
  // of columns].
  Status read_fp8(const MatrixRequest& request, std::span<std::byte> values,
                  std::span<float> scales);

  // Bytes of the checkpoint that read() of the same request covers: what a loader sums up first,
  // for the total of its progress bar.
  virtual Result<int64_t> num_bytes(const MatrixRequest& request) const = 0;
  virtual Result<int64_t> num_bytes(const VectorRequest& request) const = 0;
  // The same over all successful reads so far.
  int64_t bytes_read() const { return bytes_read_; }

 private:
  virtual Status do_read(const MatrixRequest& request, std::span<float> out) const = 0;
  virtual Status do_read(const MatrixRequest& request, std::span<uint16_t> out) const = 0;
  virtual Status do_read_fp8(const MatrixRequest& request, std::span<std::byte> values,
                             std::span<float> scales) const;
  virtual Status do_read_vector(const VectorRequest& request, std::span<float> out) const = 0;
  template <typename Request>
  Status count(const Request& request);

  const ReadProgress progress_;
  std::atomic<int64_t> bytes_read_{0};
};

// The checkpoint in `folder`, verified against the model (verify.h).
Result<std::unique_ptr<WeightSource>> open_checkpoint_weights(const std::string& folder,
                                                              const ModelConfig& model,
                                                              ReadProgress progress = {});

// Random weights of the model's shapes, without any file: for benchmarks at sizes that nobody wants
// to download. An element depends only on its tensor's name and its place in the stored tensor, so
// every rank of every layout sees parts of the same model. Matrices are uniform with variance
// 1 / in_features, so that each keeps the variance of what it multiplies; norms are 1, biases
// uniform with standard deviation 0.02. All values are bf16 values. About 2 G elements/s and core.
std::unique_ptr<WeightSource> make_dummy_weights(const ModelConfig& model,
                                                 ReadProgress progress = {});

// What the format says: the checkpoint in `folder`, or weights made up.
Result<std::unique_ptr<WeightSource>> open_weights(LoadFormat format, const std::string& folder,
                                                   const ModelConfig& model,
                                                   ReadProgress progress = {});

}  // namespace wideep::models
