# What `make install` and the Debian package put where.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

# The objects of the static library, once more as a shared one. Before 1.0 a minor version may
# change the interface of the binary, so it is part of the name.
set(abi_version ${PROJECT_VERSION_MAJOR}.${PROJECT_VERSION_MINOR})
function(ashlar_shared_library name static)
    cmake_parse_arguments(library "" "" "PUBLIC;PRIVATE" ${ARGN})
    get_target_property(output ${static} OUTPUT_NAME)
    add_library(${name} SHARED $<TARGET_OBJECTS:${static}>)
    set_target_properties(${name} PROPERTIES
        OUTPUT_NAME ${output} EXPORT_NAME ${output}_shared LINKER_LANGUAGE CXX
        VERSION ${PROJECT_VERSION} SOVERSION ${abi_version})
    target_include_directories(${name} INTERFACE $<INSTALL_INTERFACE:include>)
    target_compile_features(${name} INTERFACE cxx_std_23)
    target_link_libraries(${name} PUBLIC ${library_PUBLIC} PRIVATE ${library_PRIVATE})
endfunction()
ashlar_shared_library(ashlar_shared ashlar_library
                      PUBLIC Threads::Threads PRIVATE PkgConfig::liburing)
ashlar_shared_library(ashlar_nbd_shared ashlar_nbd_library
                      PUBLIC ashlar_shared PRIVATE ${CMAKE_DL_LIBS})

install(TARGETS ashlar_command RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(TARGETS ashlar_shared ashlar_nbd_shared ashlar_library ashlar_nbd_library
        EXPORT ashlar
        LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}
        ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(DIRECTORY ${PROJECT_SOURCE_DIR}/include/ashlar
        DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} FILES_MATCHING PATTERN "*.h")

# find_package(ashlar)
set(package_directory ${CMAKE_INSTALL_LIBDIR}/cmake/ashlar)
install(EXPORT ashlar NAMESPACE ashlar:: FILE ashlarTargets.cmake
        DESTINATION ${package_directory})
configure_package_config_file(${CMAKE_CURRENT_LIST_DIR}/ashlarConfig.cmake.in
                              ${CMAKE_CURRENT_BINARY_DIR}/ashlarConfig.cmake
                              INSTALL_DESTINATION ${package_directory})
write_basic_package_version_file(${CMAKE_CURRENT_BINARY_DIR}/ashlarConfigVersion.cmake
                                 COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/ashlarConfig.cmake
              ${CMAKE_CURRENT_BINARY_DIR}/ashlarConfigVersion.cmake
        DESTINATION ${package_directory})

# pkg-config; found wherever the tree is put.
set(pkgconfig_directory ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
file(RELATIVE_PATH pkgconfig_to_prefix /prefix/${pkgconfig_directory} /prefix)
foreach(name ashlar ashlar_nbd)
    configure_file(${CMAKE_CURRENT_LIST_DIR}/${name}.pc.in
                   ${CMAKE_CURRENT_BINARY_DIR}/${name}.pc @ONLY)
    install(FILES ${CMAKE_CURRENT_BINARY_DIR}/${name}.pc DESTINATION ${pkgconfig_directory})
endforeach()

# The system's part. systemd looks for these below lib, whatever the libraries' directory.
install(DIRECTORY ${CMAKE_CURRENT_LIST_DIR}/systemd/ DESTINATION lib/systemd/system)
# The target is part of every boot; what it starts is what is enabled.
set(target_link ${CMAKE_CURRENT_BINARY_DIR}/ashlar.target)
file(CREATE_LINK ../ashlar.target ${target_link} SYMBOLIC)
install(FILES ${target_link} DESTINATION lib/systemd/system/multi-user.target.wants)
install(FILES ${CMAKE_CURRENT_LIST_DIR}/tmpfiles.conf DESTINATION lib/tmpfiles.d
        RENAME ashlar.conf)
install(FILES ${CMAKE_CURRENT_LIST_DIR}/modules-load.conf DESTINATION lib/modules-load.d
        RENAME ashlar.conf)
install(FILES ${CMAKE_CURRENT_LIST_DIR}/sysusers.conf DESTINATION lib/sysusers.d
        RENAME ashlar.conf)
# The rules name the program by its path, which is known when the tree is installed.
install(CODE "
    set(ashlar_program \${CMAKE_INSTALL_PREFIX}/${CMAKE_INSTALL_BINDIR}/ashlar)
    configure_file(${CMAKE_CURRENT_LIST_DIR}/udev/60-ashlar.rules.in
                   ${CMAKE_CURRENT_BINARY_DIR}/60-ashlar.rules @ONLY)")
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/60-ashlar.rules DESTINATION lib/udev/rules.d)
install(FILES ${PROJECT_SOURCE_DIR}/README.md ${PROJECT_SOURCE_DIR}/examples/serve.toml
              ${CMAKE_CURRENT_LIST_DIR}/grafana-dashboard.json
              ${CMAKE_CURRENT_LIST_DIR}/bpftrace/ashlar-latency.bt
        DESTINATION ${CMAKE_INSTALL_DOCDIR})
install(FILES ${PROJECT_SOURCE_DIR}/LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR}
        RENAME copyright)
install(DIRECTORY ${PROJECT_SOURCE_DIR}/docs/ DESTINATION ${CMAKE_INSTALL_DOCDIR}/docs)

# Man pages and completions, as the command itself says them.
set(pages ${CMAKE_CURRENT_BINARY_DIR}/pages)
file(GLOB prose CONFIGURE_DEPENDS ${CMAKE_CURRENT_LIST_DIR}/man/*)
string(TIMESTAMP page_date "%Y-%m-%d" UTC)
add_custom_command(OUTPUT ${pages}/ashlar.8
    COMMAND ${CMAKE_COMMAND} -E rm -rf ${pages}
    COMMAND ashlar_command generate ${pages} --prose ${CMAKE_CURRENT_LIST_DIR}/man
            --date ${page_date}
    DEPENDS ashlar_command ${prose} VERBATIM)
add_custom_target(ashlar_pages ALL DEPENDS ${pages}/ashlar.8)
foreach(section 5 7 8)
    install(DIRECTORY ${pages}/ DESTINATION ${CMAKE_INSTALL_MANDIR}/man${section}
            FILES_MATCHING PATTERN "*.${section}")
endforeach()
install(FILES ${pages}/ashlar.bash DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions
        RENAME ashlar)
install(FILES ${pages}/_ashlar DESTINATION ${CMAKE_INSTALL_DATADIR}/zsh/vendor-completions)
install(FILES ${pages}/ashlar.fish DESTINATION ${CMAKE_INSTALL_DATADIR}/fish/vendor_completions.d)

# The Debian package: everything in one.
set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_PACKAGE_NAME ashlar)
set(CPACK_PACKAGE_CONTACT "The Ashlar developers <maintainers@ashlar.invalid>")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "Linux block devices in userspace")
set(CPACK_STRIP_FILES ON)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SECTION admin)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS_PRIVATE_DIRS ${CMAKE_BINARY_DIR})
# Loaded, not linked: shlibdeps does not see it.
set(CPACK_DEBIAN_PACKAGE_DEPENDS "libnbd0 (>= 1.14)")
set(CPACK_DEBIAN_PACKAGE_RECOMMENDS "qemu-utils, nbdkit")
set(CPACK_DEBIAN_PACKAGE_SUGGESTS "liburing-dev")
set(CPACK_DEBIAN_PACKAGE_CONTROL_EXTRA ${CMAKE_CURRENT_LIST_DIR}/debian/triggers
    ${CMAKE_CURRENT_LIST_DIR}/debian/postinst ${CMAKE_CURRENT_LIST_DIR}/debian/prerm
    ${CMAKE_CURRENT_LIST_DIR}/debian/postrm)
set(CPACK_DEBIAN_PACKAGE_CONTROL_STRICT_PERMISSION ON)
include(CPack)
