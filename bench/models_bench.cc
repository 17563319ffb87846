// How fast weights come in, one core, from files in the page cache. Two rates are given:
//   GB/s        of the checkpoint's bytes
//   out_GB/s    of the floats that are written; to compare with the machine's copy rate below
// `read_model` is all of models/dsv3-tiny (35.7 M parameters, most of them FP8), opening and
// verification included; the others are one large matrix by stored dtype.
#include <benchmark/benchmark.h>

#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "base/safetensors.h"
#include "models/models.h"

namespace wideep::models {
namespace {

constexpr int64_t kRows = 2048;
constexpr int64_t kColumns = 7168;

void set_rates(benchmark::State& state, int64_t bytes_in, int64_t bytes_out) {
  using benchmark::Counter;
  const auto rate = [&](int64_t bytes) {
    return Counter(static_cast<double>(bytes) * 1e-9, Counter::kIsIterationInvariantRate);
  };
  state.counters["GB/s"] = rate(bytes_in);
  state.counters["out_GB/s"] = rate(bytes_out);
}

// Reads every tensor of the model, experts and all, into one buffer after another.
template <typename T>
void read_model_from(WeightSource& source, const std::vector<TensorSpec>& tensors,
                     std::vector<T>& matrix, std::vector<float>& vector) {
  for (const TensorSpec& tensor : tensors) {
    Status status;
    if (tensor.shape.size() == 1) {
      vector.resize(static_cast<size_t>(tensor.shape[0]));
      status = source.read_vector({tensor.name, 0, tensor.shape[0]}, vector);
    } else {
      const MatrixRequest all{tensor.name, -1, false, 0, tensor.shape[0], 0, tensor.shape[1]};
      if (static_cast<int64_t>(matrix.size()) < all.num_elements()) {
        matrix.resize(static_cast<size_t>(all.num_elements()));
      }
      status = source.read(all, std::span(matrix).first(static_cast<size_t>(all.num_elements())));
    }
    CHECK(status.is_ok());
  }
}

template <typename T>
void read_model(benchmark::State& state) {
  const std::string folder = WIDEEP_SOURCE_DIR "/models/dsv3-tiny";
  int64_t bytes = 0;
  int64_t elements = 0;
  std::vector<T> matrix;
  std::vector<float> vector;
  for (auto _ : state) {
    const auto model = read_model_config(folder);
    CHECK(model.is_ok());
    const auto source = open_checkpoint_weights(folder, *model);
    CHECK(source.is_ok());
    const std::vector<TensorSpec> tensors = tensor_list(*model);
    read_model_from(**source, tensors, matrix, vector);
    bytes = (*source)->bytes_read();
    elements = 0;
    for (const TensorSpec& tensor : tensors) {
      elements += tensor.shape[0] * (tensor.shape.size() == 1 ? 1 : tensor.shape[1]);
    }
  }
  set_rates(state, bytes, elements * static_cast<int64_t>(sizeof(T)));
  state.counters["parameters"] = static_cast<double>(elements);
}
BENCHMARK(read_model<float>)->Unit(benchmark::kMillisecond);
BENCHMARK(read_model<uint16_t>)->Unit(benchmark::kMillisecond);

void open_and_verify(benchmark::State& state) {
  const std::string folder = WIDEEP_SOURCE_DIR "/models/dsv3-tiny";
  for (auto _ : state) {
    const auto model = read_model_config(folder);
    CHECK(model.is_ok() && open_checkpoint_weights(folder, *model).is_ok());
  }
}
BENCHMARK(open_and_verify)->Unit(benchmark::kMillisecond);

// A matrix of each dtype in a file of its own that removes itself.
class MatrixFile {
 public:
  explicit MatrixFile(DType dtype) {
    std::string path = (std::filesystem::temp_directory_path() / "wideep_bench_XXXXXX").string();
    CHECK(::mkdtemp(path.data()) != nullptr);
    folder_ = path;
    // Small codes: no infinities, no NaN.
    const std::vector<std::byte> bytes(static_cast<size_t>(kRows * kColumns * dtype_size(dtype)),
                                       std::byte{0x31});
    const std::vector<float> scales(static_cast<size_t>(kRows / 128 * kColumns / 128), 0.5F);
    std::vector<TensorToWrite> tensors = {{"w", dtype, {kRows, kColumns}, bytes}};
    if (dtype == DType::kF8E4M3) {
      tensors.push_back({"w_scale_inv",
                         DType::kF32,
                         {kRows / 128, kColumns / 128},
                         std::as_bytes(std::span(scales))});
    }
    CHECK(write_safetensors(folder_ + "/model.safetensors", std::move(tensors)).is_ok());
  }
  MatrixFile(const MatrixFile&) = delete;
  ~MatrixFile() {
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }
  Checkpoint open() const {
    Result<Checkpoint> checkpoint = Checkpoint::open(folder_);
    CHECK(checkpoint.is_ok());
    return std::move(checkpoint).value();
  }

 private:
  std::string folder_;
};

template <typename T>
void read_matrix(benchmark::State& state, DType dtype, bool transposed) {
  const MatrixFile file(dtype);
  const Checkpoint checkpoint = file.open();
  MatrixRequest all{"w", -1, transposed, 0, kRows, 0, kColumns};
  if (transposed) std::swap(all.row_end, all.column_end);
  std::vector<T> out(static_cast<size_t>(all.num_elements()));
  for (auto _ : state) {
    CHECK(checkpoint.read(all, std::span<T>(out)).is_ok());
    benchmark::ClobberMemory();
  }
  set_rates(state, all.num_elements() * dtype_size(dtype),
            all.num_elements() * static_cast<int64_t>(sizeof(T)));
}
void as_float(benchmark::State& state, DType dtype, bool transposed) {
  read_matrix<float>(state, dtype, transposed);
}
void as_bf16(benchmark::State& state, DType dtype, bool transposed) {
  read_matrix<uint16_t>(state, dtype, transposed);
}
BENCHMARK_CAPTURE(as_float, f32, DType::kF32, false)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(as_float, bf16, DType::kBF16, false)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(as_float, f16, DType::kF16, false)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(as_float, fp8, DType::kF8E4M3, false)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(as_float, bf16_transposed, DType::kBF16, true)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(as_bf16, bf16, DType::kBF16, false)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(as_bf16, fp8, DType::kF8E4M3, false)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(as_bf16, bf16_transposed, DType::kBF16, true)->Unit(benchmark::kMillisecond);

// The same matrix made up.
template <typename T>
void dummy_matrix(benchmark::State& state) {
  ModelConfig model;
  model.architecture = "DeepseekV3ForCausalLM";
  model.vocab_size = 2048;
  model.hidden_size = 7168;
  const auto source = make_dummy_weights(model);
  const MatrixRequest all{"lm_head.weight", -1, false, 0, kRows, 0, kColumns};
  std::vector<T> out(static_cast<size_t>(all.num_elements()));
  for (auto _ : state) {
    CHECK(source->read(all, std::span<T>(out)).is_ok());
    benchmark::ClobberMemory();
  }
  set_rates(state, all.num_elements() * 2, all.num_elements() * static_cast<int64_t>(sizeof(T)));
}
BENCHMARK(dummy_matrix<float>)->Unit(benchmark::kMillisecond);
BENCHMARK(dummy_matrix<uint16_t>)->Unit(benchmark::kMillisecond);

// The limit: the same floats copied.
void copy_floats(benchmark::State& state) {
  const std::vector<float> from(static_cast<size_t>(kRows * kColumns), 1.0F);
  std::vector<float> to(from.size());
  for (auto _ : state) {
    std::memcpy(to.data(), from.data(), from.size() * sizeof(float));
    benchmark::ClobberMemory();
  }
  const auto bytes = static_cast<int64_t>(from.size() * sizeof(float));
  set_rates(state, bytes, bytes);
}
BENCHMARK(copy_floats)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace wideep::models
