#include "base/safetensors.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <bit>
#include <optional>
#include <utility>

#include "base/json.h"

namespace wideep {
namespace {

static_assert(std::endian::native == std::endian::little, "safetensors bytes are little-endian");

constexpr size_t kLengthBytes = 8;
// The format's own limit on the header.
constexpr uint64_t kMaxHeaderBytes = 100'000'000;
constexpr std::string_view kMetadataKey = "__metadata__";
constexpr int kMaxDimensions = 64;

// Reads the header event by event: a shard of a large model has tens of thousands of entries, and a
// document tree of them would be many times their size.
class HeaderReader : public nlohmann::json_sax<Json> {
 public:
  HeaderReader(std::vector<TensorEntry>& tensors, std::map<std::string, std::string>& metadata)
      : tensors_(tensors), metadata_(metadata) {}

  const std::string& problem() const { return problem_; }

  bool start_object(size_t) override {
    switch (place_) {
      case Place::kStart:
        place_ = Place::kTop;
        return true;
      case Place::kEntry:
        place_ = Place::kTensor;
        return true;
      case Place::kMetadata:
        place_ = Place::kInMetadata;
        return true;
      default:
        return unexpected("an object");
    }
  }

  bool end_object() override {
    if (place_ == Place::kTensor) {
      if (!finish_tensor()) return false;
      place_ = Place::kTop;
    } else if (place_ == Place::kInMetadata) {
      place_ = Place::kTop;
    }
    return true;
  }

  bool key(std::string& key) override {
    if (place_ == Place::kTop) {
      place_ = key == kMetadataKey ? Place::kMetadata : Place::kEntry;
      if (place_ == Place::kMetadata) {
        if (std::exchange(has_metadata_, true)) return fail("key \"__metadata__\" appears twice");
      } else {
        tensors_.emplace_back().name = key;
        has_dtype_ = has_shape_ = false;
        offsets_.clear();
        has_offsets_ = false;
      }
      return true;
    }
    if (place_ == Place::kInMetadata) {
      metadata_key_ = key;
      if (metadata_.contains(key)) return fail(fmt::format("metadata key \"{}\" twice", key));
      return true;
    }
    return tensor_key(key);
  }

  bool string(std::string& value) override {
    if (place_ == Place::kInMetadata) {
      metadata_.emplace(metadata_key_, value);
      return true;
    }
    if (place_ != Place::kDType) return unexpected("a string");
    const std::optional<DType> dtype = parse_dtype(value);
    if (!dtype.has_value()) return fail_tensor(fmt::format("unknown dtype \"{}\"", value));
    tensors_.back().dtype = *dtype;
    place_ = Place::kTensor;
    return true;
  }

  bool number_unsigned(uint64_t value) override {
    if (place_ != Place::kInShape && place_ != Place::kInOffsets) return unexpected("a number");
    if (value > static_cast<uint64_t>(INT64_MAX)) return fail_tensor("a number beyond 2^63");
    std::vector<int64_t>& list = place_ == Place::kInShape ? tensors_.back().shape : offsets_;
    if (list.size() == kMaxDimensions) return fail_tensor("a list of more than 64 numbers");
    list.push_back(static_cast<int64_t>(value));
    return true;
  }

  bool start_array(size_t) override {
    if (place_ == Place::kShape) {
      place_ = Place::kInShape;
    } else if (place_ == Place::kOffsets) {
      place_ = Place::kInOffsets;
    } else {
      return unexpected("a list");
    }
    return true;
  }

  bool end_array() override {
    place_ = Place::kTensor;
    return true;
  }

  bool null() override { return unexpected("null"); }
  bool boolean(bool) override { return unexpected("a boolean"); }
  bool number_integer(int64_t) override { return unexpected("a negative number"); }
  bool number_float(double, const std::string&) override { return unexpected("a fraction"); }
  bool binary(Json::binary_t&) override { return unexpected("binary data"); }
  bool parse_error(size_t byte, const std::string&, const Json::exception&) override {
    return fail(fmt::format("not valid JSON at byte {}", byte));
  }

 private:
  enum class Place {
    kStart,
    kTop,
    kEntry,
    kTensor,
    kDType,
    kShape,
    kInShape,
    kOffsets,
    kInOffsets,
    kMetadata,
    kInMetadata
  };

  bool tensor_key(const std::string& key) {
    if (key == "dtype") {
      place_ = Place::kDType;
      if (!std::exchange(has_dtype_, true)) return true;
    } else if (key == "shape") {
      place_ = Place::kShape;
      if (!std::exchange(has_shape_, true)) return true;
    } else if (key == "data_offsets") {
      place_ = Place::kOffsets;
      if (!std::exchange(has_offsets_, true)) return true;
    } else {
      return fail_tensor(fmt::format("unknown key \"{}\"", key));
    }
    return fail_tensor(fmt::format("key \"{}\" appears twice", key));
  }

  bool finish_tensor() {
    if (!has_dtype_ || !has_shape_ || !has_offsets_) {
      return fail_tensor("needs \"dtype\", \"shape\" and \"data_offsets\"");
    }
    if (offsets_.size() != 2) return fail_tensor("\"data_offsets\" must be [begin, end]");
    tensors_.back().begin = offsets_[0];
    tensors_.back().end = offsets_[1];
    return true;
  }

  bool fail(std::string problem) {
    if (problem_.empty()) problem_ = "header: " + std::move(problem);
    return false;
  }
  bool fail_tensor(const std::string& problem) {
    if (problem_.empty()) {
      problem_ = fmt::format("tensor \"{}\": {}", tensors_.back().name, problem);
    }
    return false;
  }
  bool unexpected(const char* what) {
    if (place_ == Place::kStart) return fail("must be a JSON object");
    if (place_ == Place::kMetadata || place_ == Place::kInMetadata) {
      return fail(fmt::format("\"__metadata__\" must map strings to strings, found {}", what));
    }
    return fail_tensor(fmt::format("unexpected {}", what));
  }

  std::vector<TensorEntry>& tensors_;
  std::map<std::string, std::string>& metadata_;
  std::string problem_;
  Place place_ = Place::kStart;
  bool has_metadata_ = false;
  std::string metadata_key_;
  bool has_dtype_ = false;
  bool has_shape_ = false;
  bool has_offsets_ = false;
  std::vector<int64_t> offsets_;
};

// As a JSON string; bytes that are no UTF-8 become U+FFFD.
std::string quoted(const std::string& text) {
  return Json(text).dump(-1, ' ', false, Json::error_handler_t::replace);
}

// Each tensor by itself: its size, and its place in the data.
Status check_tensors(std::span<const TensorEntry> tensors, int64_t data_bytes,
                     const std::string& name) {
  for (const TensorEntry& tensor : tensors) {
    if (tensor.begin > tensor.end || tensor.end > data_bytes) {
      return Status::invalid_input(fmt::format(
          "{}: tensor \"{}\": data_offsets [{}, {}] are not in the {} data bytes of the "
          "file: is it truncated?",
          name, tensor.name, tensor.begin, tensor.end, data_bytes));
    }
    const std::optional<int64_t> bytes = tensor_bytes(tensor.dtype, tensor.shape);
    if (bytes != tensor.end - tensor.begin) {
      return Status::invalid_input(
          fmt::format("{}: tensor \"{}\": shape [{}] of {} needs {} bytes, data_offsets hold {}",
                      name, tensor.name, fmt::join(tensor.shape, ", "), dtype_name(tensor.dtype),
                      bytes.has_value() ? fmt::to_string(*bytes) : "more than 2^63",
                      tensor.end - tensor.begin));
    }
  }
  return Status::ok();
}

// All tensors together: the format allows no byte that belongs to two tensors or to none.
Status check_layout(std::span<const TensorEntry> tensors, int64_t data_bytes,
                    const std::string& name) {
  std::vector<const TensorEntry*> by_offset;
  by_offset.reserve(tensors.size());
  for (const TensorEntry& tensor : tensors) by_offset.push_back(&tensor);
  std::sort(by_offset.begin(), by_offset.end(), [](const TensorEntry* a, const TensorEntry* b) {
    return std::pair(a->begin, a->end) < std::pair(b->begin, b->end);
  });
  int64_t at = 0;
  for (const TensorEntry* tensor : by_offset) {
    if (tensor->begin < at) {
      return Status::invalid_input(fmt::format("{}: tensor \"{}\" overlaps another at byte {}",
                                               name, tensor->name, tensor->begin));
    }
    if (tensor->begin > at) {
      return Status::invalid_input(
          fmt::format("{}: data bytes [{}, {}) before tensor \"{}\" belong to no tensor", name, at,
                      tensor->begin, tensor->name));
    }
    at = tensor->end;
  }
  if (at != data_bytes) {
    return Status::invalid_input(
        fmt::format("{}: the last {} data bytes belong to no tensor", name, data_bytes - at));
  }
  return Status::ok();
}

}  // namespace

Result<Safetensors> Safetensors::open(const std::string& path) {
  ASSIGN_OR_RETURN(MappedFile file, MappedFile::open(path));
  ASSIGN_OR_RETURN(Safetensors opened, parse(file.bytes(), path));
  opened.file_ = std::move(file);
  return opened;
}

Result<Safetensors> Safetensors::parse(std::span<const std::byte> bytes, const std::string& name) {
  if (bytes.size() < kLengthBytes) {
    return Status::invalid_input(
        fmt::format("{}: {} bytes: too short for a safetensors file", name, bytes.size()));
  }
  uint64_t length = 0;
  std::memcpy(&length, bytes.data(), kLengthBytes);
  if (length > kMaxHeaderBytes || length > bytes.size() - kLengthBytes) {
    return Status::invalid_input(
        fmt::format("{}: header length {} is beyond the {} bytes of the file{}", name, length,
                    bytes.size(), length > kMaxHeaderBytes ? " or the format's limit of 1e8" : ""));
  }
  const std::string_view header(reinterpret_cast<const char*>(bytes.data()) + kLengthBytes, length);
  if (header.empty() || header.front() != '{') {
    return Status::invalid_input(
        fmt::format("{}: not a safetensors file: its header does not start with '{{'", name));
  }
  Safetensors opened;
  opened.name_ = name;
  opened.data_ = bytes.subspan(kLengthBytes + length);
  HeaderReader reader(opened.tensors_, opened.metadata_);
  RETURN_IF_ERROR(stream_json(header, name, reader));
  if (!reader.problem().empty()) {
    return Status::invalid_input(fmt::format("{}: {}", name, reader.problem()));
  }
  auto& tensors = opened.tensors_;
  std::sort(tensors.begin(), tensors.end(),
            [](const TensorEntry& a, const TensorEntry& b) { return a.name < b.name; });
  const auto twice = std::adjacent_find(
      tensors.begin(), tensors.end(),
      [](const TensorEntry& a, const TensorEntry& b) { return a.name == b.name; });
  if (twice != tensors.end()) {
    return Status::invalid_input(fmt::format("{}: tensor \"{}\" appears twice", name, twice->name));
  }
  const auto data_bytes = static_cast<int64_t>(opened.data_.size());
  RETURN_IF_ERROR(check_tensors(tensors, data_bytes, name));
  RETURN_IF_ERROR(check_layout(tensors, data_bytes, name));
  return opened;
}

const TensorEntry* Safetensors::find(std::string_view name) const {
  const auto at =
      std::lower_bound(tensors_.begin(), tensors_.end(), name,
                       [](const TensorEntry& a, std::string_view b) { return a.name < b; });
  return at != tensors_.end() && at->name == name ? &*at : nullptr;
}

Status Safetensors::dtype_error(const TensorEntry& tensor, DType wanted) const {
  return Status::invalid_input(fmt::format("{}: tensor \"{}\": dtype is {}, must be {}", name_,
                                           tensor.name, dtype_name(tensor.dtype),
                                           dtype_name(wanted)));
}

Status write_safetensors(const std::string& path, std::vector<TensorToWrite> tensors,
                         const std::map<std::string, std::string>& metadata) {
  std::sort(tensors.begin(), tensors.end(), [](const TensorToWrite& a, const TensorToWrite& b) {
    const int size_a = dtype_size(a.dtype);
    const int size_b = dtype_size(b.dtype);
    return size_a != size_b ? size_a > size_b : a.name < b.name;
  });
  std::string header = "{";
  for (const auto& [key, value] : metadata) {
    header += header.size() == 1 ? fmt::format("\"{}\":{{", kMetadataKey) : ",";
    header += fmt::format("{}:{}", quoted(key), quoted(value));
  }
  if (!metadata.empty()) header += '}';
  size_t at = 0;
  for (const TensorToWrite& tensor : tensors) {
    const size_t end = at + tensor.bytes.size();
    fmt::format_to(std::back_inserter(header),
                   "{}{}:{{\"dtype\":\"{}\",\"shape\":[{}],\"data_offsets\":[{},{}]}}",
                   header.size() > 1 ? "," : "", quoted(tensor.name), dtype_name(tensor.dtype),
                   fmt::join(tensor.shape, ","), at, end);
    at = end;
  }
  header += '}';
  header.resize((header.size() + 7) / 8 * 8, ' ');  // the data starts at a multiple of 8

  ASSIGN_OR_RETURN(FileWriter file, FileWriter::create(path));
  const uint64_t length = header.size();
  RETURN_IF_ERROR(file.append({reinterpret_cast<const char*>(&length), sizeof length}));
  RETURN_IF_ERROR(file.append(header));
  for (const TensorToWrite& tensor : tensors) {
    RETURN_IF_ERROR(
        file.append({reinterpret_cast<const char*>(tensor.bytes.data()), tensor.bytes.size()}));
  }
  return file.commit();
}

}  // namespace wideep
