#include "eplb/trace.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <numeric>
#include <utility>

#include "base/file.h"
#include "base/json.h"
#include "base/npy.h"
#include "config/limits.h"

namespace wideep::eplb {
namespace {

constexpr std::string_view kExtension = ".npy";

// One id of a mapped array: -1 where it says "not routed", INT64_MAX where an unsigned id is out of
// any range.
template <typename T>
int64_t read_id(const std::byte* at) {
  T id;
  std::memcpy(&id, at, sizeof id);
  if constexpr (std::is_signed_v<T>) {
    return id < 0 ? -1 : static_cast<int64_t>(id);
  } else {
    return id == std::numeric_limits<T>::max() ? -1 : static_cast<int64_t>(id);
  }
}

using IdReader = int64_t (*)(const std::byte*);

IdReader id_reader(DType dtype) {
  switch (dtype) {
    case DType::kU8:
      return read_id<uint8_t>;
    case DType::kU16:
      return read_id<uint16_t>;
    case DType::kI16:
      return read_id<int16_t>;
    case DType::kI32:
      return read_id<int32_t>;
    case DType::kI64:
      return read_id<int64_t>;
    default:
      return nullptr;
  }
}

// One mapped file of the trace.
struct Part {
  std::string path;
  Npy array;
  IdReader read = nullptr;
  int id_bytes = 0;
  int64_t first_token = 0;
  int64_t num_tokens = 0;
};

Result<Part> open_part(const std::string& path) {
  ASSIGN_OR_RETURN(Npy array, Npy::open(path));
  const std::vector<int64_t>& shape = array.shape();
  if (shape.size() != 3 || shape[0] < 1 || shape[1] < 1 || shape[2] < 1 || shape[1] > kMaxLayers ||
      shape[2] > kMaxTopK) {
    return Status::invalid_input(fmt::format(
        "{}: shape is ({}), must be (tokens, layers, top_k), each at least 1, layers at "
        "most {} and top_k at most {}",
        path, fmt::join(shape, ", "), kMaxLayers, kMaxTopK));
  }
  const IdReader read = id_reader(array.dtype());
  if (read == nullptr) {
    return Status::invalid_input(fmt::format("{}: expert ids are {}, must be u1, u2, i2, i4 or i8",
                                             path, dtype_name(array.dtype())));
  }
  const int64_t tokens = shape[0];
  const int id_bytes = dtype_size(array.dtype());
  return Part{path, std::move(array), read, id_bytes, 0, tokens};
}

// Lengths of a file's texts: from the list beside it, or all tokens as one text.
Result<std::vector<int64_t>> text_lengths(const Part& part) {
  std::string stem = part.path;
  if (stem.ends_with(kExtension)) stem.resize(stem.size() - kExtension.size());
  const std::string path = stem + ".lens.json";
  if (!path_exists(path)) return std::vector<int64_t>{part.num_tokens};
  ASSIGN_OR_RETURN(const Json lengths, read_json(path));
  std::vector<int64_t> result;
  int64_t sum = 0;
  for (size_t i = 0; lengths.is_array() && i < lengths.size(); ++i) {
    const bool whole = lengths[i].is_number_unsigned();
    if (!whole || lengths[i] < 1 || lengths[i] > part.num_tokens - sum) {
      return Status::invalid_input(
          fmt::format("{}: text {} has length {}: lengths are whole numbers from 1 that sum to the "
                      "{} tokens of the trace",
                      path, i, lengths[i].dump().substr(0, 40), part.num_tokens));
    }
    result.push_back(lengths[i].get<int64_t>());
    sum += result.back();
  }
  if (sum != part.num_tokens) {
    return Status::invalid_input(
        fmt::format("{}: must be a list of lengths that sum to the {} tokens of the trace, sums to "
                    "{}",
                    path, part.num_tokens, sum));
  }
  return result;
}

}  // namespace

struct Trace::Impl {
  std::vector<Part> parts;
  std::vector<int> layers;
  std::vector<int64_t> text_starts;
  int64_t num_tokens = 0;
  int top_k = 0;
  int num_experts = 0;

  Status check_ids(int max_experts);

  const Part& part_of(int64_t token) const {
    const auto at = std::upper_bound(parts.begin(), parts.end(), token,
                                     [](int64_t t, const Part& p) { return t < p.first_token; });
    return *(at - 1);
  }
};

// Looks at every id once, so that nothing later has to. max_experts 0: finds the largest id.
Status Trace::Impl::check_ids(int max_experts) {
  const int64_t bound = max_experts > 0 ? max_experts : kMaxSlots;
  const int64_t ids_per_token = static_cast<int64_t>(layers.size()) * top_k;
  int64_t largest = -1;
  for (const Part& part : parts) {
    const std::byte* at = part.array.bytes().data();
    for (int64_t i = 0; i < part.num_tokens * ids_per_token; ++i, at += part.id_bytes) {
      const int64_t id = part.read(at);
      largest = std::max(largest, id);
      if (id < bound) continue;
      return Status::invalid_input(fmt::format(
          "{}: token {}, layer {}: expert id {} is not below {}", part.path, i / ids_per_token,
          layers[static_cast<size_t>(i % ids_per_token / top_k)], id, bound));
    }
    if (part.array.dtype() == DType::kU8 && max_experts > 255) {
      return Status::invalid_input(fmt::format(
          "{}: 255 means \"not routed\" in u1 ids, so they can name 255 experts, not {}: save u2",
          part.path, max_experts));
    }
  }
  if (largest < 0) {
    return Status::invalid_input(fmt::format("{}: no token is routed", parts.front().path));
  }
  num_experts = max_experts > 0 ? max_experts : static_cast<int>(largest) + 1;
  return Status::ok();
}

Result<Trace> Trace::open(const std::vector<std::string>& paths, int num_experts, int first_layer) {
  CHECK(num_experts >= 0 && first_layer >= 0);
  if (paths.empty()) return Status::invalid_input("no trace file is named");
  auto impl = std::make_unique<Impl>();
  for (const std::string& path : paths) {
    ASSIGN_OR_RETURN(Part part, open_part(path));
    const auto& shape = part.array.shape();
    if (impl->parts.empty()) {
      impl->top_k = static_cast<int>(shape[2]);
      impl->layers.resize(static_cast<size_t>(shape[1]));
      std::iota(impl->layers.begin(), impl->layers.end(), first_layer);
    } else if (shape[1] != static_cast<int64_t>(impl->layers.size()) || shape[2] != impl->top_k) {
      return Status::invalid_input(
          fmt::format("{}: has {} layers, top_k {}, but {} has {} layers, top_k {}", path, shape[1],
                      shape[2], paths.front(), impl->layers.size(), impl->top_k));
    }
    ASSIGN_OR_RETURN(const std::vector<int64_t> lengths, text_lengths(part));
    part.first_token = impl->num_tokens;
    for (const int64_t length : lengths) {
      impl->text_starts.push_back(impl->num_tokens);
      impl->num_tokens += length;
    }
    impl->parts.push_back(std::move(part));
  }
  impl->text_starts.push_back(impl->num_tokens);
  RETURN_IF_ERROR(impl->check_ids(num_experts));
  return Trace(std::move(impl));
}

Trace::Trace(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Trace::Trace(Trace&&) noexcept = default;
Trace& Trace::operator=(Trace&&) noexcept = default;
Trace::~Trace() = default;

int64_t Trace::num_tokens() const {
  return impl_->num_tokens;
}
int Trace::num_layers() const {
  return static_cast<int>(impl_->layers.size());
}
int Trace::top_k() const {
  return impl_->top_k;
}
int Trace::num_experts() const {
  return impl_->num_experts;
}
const std::vector<int>& Trace::layers() const {
  return impl_->layers;
}
const std::vector<int64_t>& Trace::text_starts() const {
  return impl_->text_starts;
}

void Trace::experts(int64_t token, int layer_index, int* out) const {
  CHECK(token >= 0 && token < num_tokens() && layer_index >= 0 && layer_index < num_layers());
  const Part& part = impl_->part_of(token);
  const int64_t first = ((token - part.first_token) * num_layers() + layer_index) * impl_->top_k;
  const std::byte* at = part.array.bytes().data() + first * part.id_bytes;
  for (int k = 0; k < impl_->top_k; ++k, at += part.id_bytes) {
    out[k] = static_cast<int>(part.read(at));
  }
}

Load total_load(const Trace& trace) {
  Load load;
  load.num_experts = trace.num_experts();
  load.top_k = trace.top_k();
  load.layers = trace.layers();
  load.tokens.assign(static_cast<size_t>(load.num_layers()) * static_cast<size_t>(load.num_experts),
                     0);
  std::vector<int> ids(static_cast<size_t>(trace.top_k()));
  for (int64_t token = 0; token < trace.num_tokens(); ++token) {
    for (int layer = 0; layer < trace.num_layers(); ++layer) {
      trace.experts(token, layer, ids.data());
      int64_t* row = load.tokens.data() + int64_t{layer} * load.num_experts;
      for (const int id : ids) {
        if (id >= 0) ++row[id];
      }
    }
  }
  return load;
}

}  // namespace wideep::eplb
