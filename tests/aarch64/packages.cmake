# The packages that the library and its tests want, for an architecture that this machine has none installed for.
#
# Their headers are the same for all architectures: links to those few alone go on the include path, never
# /usr/include, which belongs to this machine. Highway and xxhash need no library then, GoogleTest is compiled from
# Debian's sources, and in place of liburing stands one that refuses, as the emulated kernel would, and so does a libzstd.
set(root ${PROJECT_BINARY_DIR}/packages)
file(MAKE_DIRECTORY ${root}/include ${root}/pkgconfig)
foreach(name hwy xxhash.h xxh3.h zstd.h liburing liburing.h nlohmann)
  file(CREATE_LINK /usr/include/${name} ${root}/include/${name} SYMBOLIC)
endforeach()

function(quire_host_package name cflags libs)
  file(CONFIGURE OUTPUT ${root}/pkgconfig/${name}.pc CONTENT
    "Name: ${name}\nDescription: headers of ${name}\nVersion: 1\nCflags: -I${root}/include ${cflags}\nLibs: ${libs}\n")
endfunction()
quire_host_package(libhwy "" "")
quire_host_package(libxxhash -DXXH_PRIVATE_API "")
quire_host_package(libzstd "" -lrefused_zstd)
quire_host_package(liburing "" -lrefused_uring)
set(ENV{PKG_CONFIG_LIBDIR} ${root}/pkgconfig)

foreach(name refused_uring refused_zstd)
  add_library(${name} STATIC ${CMAKE_CURRENT_LIST_DIR}/${name}.c)
  target_include_directories(${name} SYSTEM PRIVATE ${root}/include)
endforeach()

set(BUILD_GMOCK OFF)
set(INSTALL_GTEST OFF)
add_subdirectory(/usr/src/googletest ${PROJECT_BINARY_DIR}/googletest EXCLUDE_FROM_ALL)
add_library(nlohmann_json::nlohmann_json INTERFACE IMPORTED)
target_include_directories(nlohmann_json::nlohmann_json INTERFACE ${root}/include)
# find_package then finds what is defined above.
file(WRITE ${CMAKE_FIND_PACKAGE_REDIRECTS_DIR}/gtest-config.cmake "")
file(WRITE ${CMAKE_FIND_PACKAGE_REDIRECTS_DIR}/nlohmann_json-config.cmake "")
