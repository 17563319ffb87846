// Files: whole reads, memory maps, and writes that replace a file at once or not at all.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace wideep {

// The whole file. kNotFound, kIo, or kInvalidInput where it is larger than max_bytes.
Result<std::string> read_file(const std::string& path, int64_t max_bytes = int64_t{1} << 30);

// Writes a file piece by piece: to a temporary file beside `path`, which commit() syncs and
// renames. On any error (unwritable folder, full disk), or without commit(), path keeps what it had
// and the temporary file is gone.
class FileWriter {
 public:
  static Result<FileWriter> create(const std::string& path);

  FileWriter(FileWriter&& other) noexcept;
  FileWriter& operator=(FileWriter&& other) noexcept;
  ~FileWriter();

  Status append(std::string_view bytes);
  // Ends the file. Once, and after no failed append.
  Status commit();

 private:
  FileWriter(int fd, std::string path, std::string temporary);

  int fd_ = -1;  // -1: committed or moved from
  std::string path_;
  std::string temporary_;  // empty: written to directly
};

// Replaces path with contents, at once or not at all, as FileWriter does.
Status write_file(const std::string& path, std::string_view contents);

// Makes the folder and its parents; fine if it exists.
Status make_directory(const std::string& path);

// Names (not paths) of the entries of a folder, sorted.
Result<std::vector<std::string>> list_directory(const std::string& path);

bool path_exists(const std::string& path);
bool is_directory(const std::string& path);

// Joins with one '/'.
std::string join_path(std::string_view folder, std::string_view name);

// A read-only memory map of a whole file; moves, does not copy. An empty file maps to an empty
// span.
class MappedFile {
 public:
  static Result<MappedFile> open(const std::string& path);

  MappedFile() = default;
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  std::span<const std::byte> bytes() const { return {data_, size_}; }

 private:
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

// Tells the system that these bytes of a mapped file will be read soon and in full: it then fetches
// them in large pieces ahead of the reader. A hint: nothing is waited for, nothing can fail.
void will_read(std::span<const std::byte> mapped);

}  // namespace wideep
